"""Text normalisers, applied to reference and transcript before comparison.

`EnglishWords`, `SeedTTSEnglish` and `SeedTTSChinese` follow published rules, for comparison with published tables.
`SpokenEnglish` and `BasicWords` keep everything that is spoken, for our own tables.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from modules.recognition import Normaliser
from modules.verifiers.recognisers.written_english import APOSTROPHES, SIGN_TABLES, read_out, with_plain_apostrophes

# Maps a recogniser's output for a spoken digit to that digit: names and homophones.
DIGIT_WORDS: dict[str, tuple[str, ...]] = {
    "0": ("zero", "zeros", "oh", "o", "ow", "nought", "naught", "nil"),
    "1": ("one", "ones", "won", "wan"),
    "2": ("two", "twos", "to", "too", "tu"),
    "3": ("three", "threes", "tree", "free"),
    "4": ("four", "fours", "for", "fore"),
    "5": ("five", "fives", "fife"),
    "6": ("six", "sixes", "sicks", "sics"),
    "7": ("seven", "sevens"),
    "8": ("eight", "eights", "ate", "ait", "aight"),
    "9": ("nine", "nines", "niner", "nein"),
}
# What Seed-TTS-eval deletes: ASCII punctuation except the apostrophe, and Chinese punctuation with its space.
PUBLISHED_PUNCTUATION = re.compile(
    r"[!-&(-/:-@\[-`{-~\u00b7\u2013\u2014\u2018\u2019\u201b-\u201f\u2026\u2027\u3000-\u3003\u3008-\u3011"
    r"\u3014-\u301f\u3030\u303e\u303f\ufe4f\ufe51\ufe54\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff64]"
)
# Scripts written without spaces between words: Thai, Lao, Burmese, Khmer, kana, Han.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
REPEATS = {"double": 2, "triple": 3}


def _identity(normaliser: Normaliser, version: int, **tables: Any) -> dict[str, Any]:
    """Record of class name, version of the rules and sha256 (hex) of each table; None stays None."""
    record: dict[str, Any] = {"class": type(normaliser).__name__, "version": version}
    for name, table in tables.items():
        content = json.dumps(table, sort_keys=True, ensure_ascii=False)
        record[name] = None if table is None else hashlib.sha256(content.encode()).hexdigest()
    return record


class EnglishWords:
    """Whisper's English normaliser, as in transformers: lower case, no punctuation, contractions expanded, numbers as
    figures.

    The original also maps British to American spelling with a table of 1,700 words. No package includes that table;
    without it the spelling is unchanged, which the name states.

    Args:
        spelling: JSON file of that table ({"colour": "color", ...}; `normalizer.json` of any Whisper model).
    """

    def __init__(self, spelling: Path | None = None) -> None:
        self.spelling = spelling

    @property
    def name(self) -> str:
        return "english words" if self.spelling else "english words (no spelling table)"

    @property
    def identity(self) -> dict[str, Any]:
        return _identity(self, 1, spelling=self._table)

    @cached_property
    def _table(self) -> dict[str, str] | None:
        return json.loads(Path(self.spelling).read_text("utf-8")) if self.spelling else None

    @cached_property
    def _normalise(self) -> Callable[[str], str]:
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

        return EnglishTextNormalizer(self._table or {})

    def __call__(self, text: str) -> str:
        return self._normalise(text).strip()


class SpokenEnglish(EnglishWords):
    """Spoken form of English: Whisper's rules without those that make different speech equal or equal speech
    different. Count words. For our own tables; use `EnglishWords` to compare with published tables.

    - Typographic apostrophes are apostrophes: "don\u2019t" is "do not".
    - An amount is its figures and its sign, the same for "$1" and "one dollar", as is a percentage; Whisper's rules
      give "one" for both. Other signs are spelled out: "&" as "and", "+", "=", "@", the degree sign, a minus before a
      figure.
    - Text in brackets is kept, in reference and transcript: a recogniser must not write tags such as [noise]
      (Whisper as run by `FasterWhisper` cannot write brackets, CTC and Sphinx have none).
    - A time in figures is read as figures: "7:30 p.m." is "seven thirty pm", "7:05" is "seven oh five", "7:00" is
      "seven" or "seven o'clock". "Half past seven" is a different text.
    - A fraction in figures is read as halves, thirds, quarters to tenths: "2 1/2" is "two and a half", "3/4" is "three
      quarters"; "a half" is "one half". Other figures around a slash are two numbers.
    - All numbers are figures, also "one".
    """

    @property
    def name(self) -> str:
        return "spoken english" if self.spelling else "spoken english (no spelling table)"

    @property
    def identity(self) -> dict[str, Any]:
        return _identity(self, 3, spelling=self._table, signs=SIGN_TABLES)

    @cached_property
    def _normalise(self) -> Callable[[str], str]:
        from transformers.models.whisper.english_normalizer import EnglishNumberNormalizer, EnglishTextNormalizer

        class Figures(EnglishNumberNormalizer):
            def postprocess(self, s: str) -> str:
                """Undo the last rule, "one" for 1: with a sign before or after it, the sign would be lost later."""
                return re.sub(r"\bone(s?)\b", r"1\1", super().postprocess(s))

        normalise = EnglishTextNormalizer(self._table or {})
        normalise.standardize_numbers = Figures()
        return normalise

    def __call__(self, text: str) -> str:
        return self._normalise(read_out(text)).strip()


class BasicWords:
    """Words of any language: lower case, compatibility forms unified (NFKC), punctuation and symbols as spaces.

    Like Whisper's normaliser for languages other than English, except: combining marks stay on their letters (vowel
    signs of Indic scripts are not punctuation), invisible characters are removed, text in brackets is kept, typographic
    apostrophes separate words like the plain one, and spaces are removed within scripts written without them (Chinese,
    Japanese, Thai): there a sentence is one word, so count characters. Numbers stay as written; signs that are spoken
    ("%") are not kept.
    """

    name = "basic words"

    @property
    def identity(self) -> dict[str, Any]:
        return _identity(self, 2, apostrophes=APOSTROPHES, unspaced=UNSPACED)

    def __call__(self, text: str) -> str:
        composed = unicodedata.normalize("NFKC", with_plain_apostrophes(text).lower()).lower()
        words = _kept(composed, lambda character: unicodedata.category(character)[0] not in "SPM")
        return re.sub(f"(?<=[{UNSPACED}]) (?=[{UNSPACED}])", "", words)


def _kept(text: str, keep: Callable[[str], bool]) -> str:
    """Keep the characters that `keep` accepts, with their combining marks; all others separate words.

    Invisible characters (format controls such as joiners, soft hyphens, direction marks; variation selectors) are
    deleted: they are not spoken and do not end a word.
    """
    characters, kept = [], False
    for character in text:
        category = unicodedata.category(character)
        if category == "Cf" or "\ufe00" <= character <= "\ufe0f":
            continue
        kept = kept if category in ("Mn", "Mc") else keep(character)
        characters.append(character if kept else " ")
    return " ".join("".join(characters).split())


class SeedTTSEnglish:
    """Seed-TTS-eval's rules for English words: lower case, punctuation deleted, so that "well-known" is one word; the
    apostrophe stays, the typographic one does not. Numbers stay as written. Count words."""

    name = "seed-tts-eval en"

    @property
    def identity(self) -> dict[str, Any]:
        return _identity(self, 1, punctuation=PUBLISHED_PUNCTUATION.pattern)

    def __call__(self, text: str) -> str:
        return " ".join(PUBLISHED_PUNCTUATION.sub("", text).lower().split())


class SeedTTSChinese:
    """Seed-TTS-eval's rules for Chinese characters: punctuation and spaces deleted, case and numbers as written. Count
    characters. The recogniser must already convert its text to simplified Chinese (`Paraformer` does)."""

    name = "seed-tts-eval zh"

    @property
    def identity(self) -> dict[str, Any]:
        return _identity(self, 1, punctuation=PUBLISHED_PUNCTUATION.pattern)

    def __call__(self, text: str) -> str:
        return "".join(PUBLISHED_PUNCTUATION.sub("", text).split())


class LetterWords:
    """Lower-case letters with their marks and apostrophes, the characters of LibriSpeech's texts; others separate
    words. A typographic apostrophe counts between two letters; elsewhere it is a quotation mark. Count words."""

    name = "letters"

    @property
    def identity(self) -> dict[str, Any]:
        return _identity(self, 3, apostrophes=APOSTROPHES)

    def __call__(self, text: str) -> str:
        text = unicodedata.normalize("NFC", text.lower())
        text = re.sub(f"(.?)[{APOSTROPHES}](?=(.?))", _between_letters, text, flags=re.DOTALL)
        return _kept(text, lambda character: character == "'" or (character.isalnum() and not character.isdecimal()))


def _between_letters(quote: re.Match[str]) -> str:
    """The character before a typographic quote, with an apostrophe if letters or their marks are on both sides."""
    kinds = [unicodedata.category(side)[0] if side else "" for side in (quote[1], quote[2])]
    return quote[1] + ("'" if kinds[0] in ("L", "M") and kinds[1] == "L" else " ")


class Digits:
    """Converts English text to the spoken digits: "four, two" and "for to" and "4-2." and "forty-two" give "42".

    Homophones count as the digit (DIGIT_WORDS), words that are not numbers are removed. Numbers are interpreted as a
    recogniser writes consecutive digits: "forty two" is 42, "forty" alone 40, "two hundred (and) five" 205, "double
    five" 55.
    """

    name = "digits"

    @property
    def identity(self) -> dict[str, Any]:
        return _identity(self, 1, digits=DIGIT_WORDS, teens=TEENS, tens=TENS, repeats=REPEATS)

    def __call__(self, text: str) -> str:
        words = re.findall(r"\d|[^\W\d_]+", text.lower().replace("'", ""))
        words = ["", *(word for word in words if word != "and"), ""]
        neighbours = zip(words[:-2], words[1:-1], words[2:], strict=True)
        return "".join(_spoken_digits(word, before, after) for before, word, after in neighbours)


def _spoken_digits(word: str, before: str, after: str) -> str:
    """The digits of one word, given its neighbours; empty for a word that is not a number."""
    if word.isdecimal():
        return str(int(word))
    digit = _digit(word)
    if digit:
        return digit * REPEATS.get(before, 1)
    if word in TEENS:
        return str(10 + TEENS.index(word))
    units_follow = _digit(after) not in ("", "0")
    if word in TENS:
        return str(2 + TENS.index(word)) + ("" if units_follow else "0")
    if word == "hundred" and _digit(before):
        return "" if after in TEENS + TENS else "0" if units_follow else "00"
    return ""


def _digit(word: str) -> str:
    return next((digit for digit, words in DIGIT_WORDS.items() if word in words), "")
