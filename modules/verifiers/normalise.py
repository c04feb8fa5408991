"""What counts as the same text: normalisers applied to reference and transcript alike before they are compared."""

import hashlib
import json
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

# The one table that turns what a recogniser wrote for a spoken digit into that digit: names, and words that sound so.
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
# What Seed-TTS-eval deletes: the punctuation of ASCII but the apostrophe, and that of Chinese texts with its space.
PUBLISHED_PUNCTUATION = re.compile(
    r"[!-&(-/:-@\[-`{-~\u00b7\u2013\u2014\u2018\u2019\u201b-\u201f\u2026\u2027\u3000-\u3003\u3008-\u3011"
    r"\u3014-\u301f\u3030\u303e\u303f\ufe4f\ufe51\ufe54\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff64]"
)
TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
REPEATS = {"double": 2, "triple": 3}


class Normaliser(Protocol):
    """Text in the form in which it is compared. `name` is printed beside every rate computed with it.

    `identity` (a JSON value) changes whenever the normalised text may: it holds the class's name without its module,
    the version of its rules (raised with every change of what the class gives) and a digest of each of its tables. It
    is a part of the key of stored scores.
    """

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> dict[str, Any]: ...
    def __call__(self, text: str) -> str: ...


def _identity(normaliser: Normaliser, version: int, **tables: Any) -> dict[str, Any]:
    """Record of class name, version of the rules and sha256 (hex) of each table; None stays None."""
    record: dict[str, Any] = {"class": type(normaliser).__name__, "version": version}
    for name, table in tables.items():
        content = json.dumps(table, sort_keys=True, ensure_ascii=False)
        record[name] = None if table is None else hashlib.sha256(content.encode()).hexdigest()
    return record


class EnglishWords:
    """Whisper's English normaliser, as transformers carries it: lower case, no punctuation, contractions written out,
    numbers as figures.

    Whisper's own also maps British to American spelling with a table of 1,700 words. No package carries that table;
    without it the spelling stays as it is, and the name says so.

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


class BasicWords:
    """Whisper's normaliser for any language: lower case, no punctuation or brackets. Numbers stay as written."""

    name = "basic words"

    @property
    def identity(self) -> dict[str, Any]:
        return _identity(self, 1)

    @cached_property
    def _normalise(self) -> Callable[[str], str]:
        from transformers.models.whisper.english_normalizer import BasicTextNormalizer

        return BasicTextNormalizer()

    def __call__(self, text: str) -> str:
        return self._normalise(text).strip()


class SeedTTSEnglish:
    """As Seed-TTS-eval compares English words: lower case, punctuation deleted, so that "well-known" is one word; the
    apostrophe stays, the typographic one does not. Numbers stay as written. Count words."""

    name = "seed-tts-eval en"

    @property
    def identity(self) -> dict[str, Any]:
        return _identity(self, 1, punctuation=PUBLISHED_PUNCTUATION.pattern)

    def __call__(self, text: str) -> str:
        return " ".join(PUBLISHED_PUNCTUATION.sub("", text).lower().split())


class SeedTTSChinese:
    """As Seed-TTS-eval compares Chinese characters: punctuation and spaces deleted, case and numbers as written.
    Count characters. Its recogniser's text is made simplified Chinese before (`Paraformer` does)."""

    name = "seed-tts-eval zh"

    @property
    def identity(self) -> dict[str, Any]:
        return _identity(self, 1, punctuation=PUBLISHED_PUNCTUATION.pattern)

    def __call__(self, text: str) -> str:
        return "".join(PUBLISHED_PUNCTUATION.sub("", text).split())


class LetterWords:
    """Lower-case letters and apostrophes, what LibriSpeech's texts are made of; all else parts words. Count words."""

    name = "letters"

    @property
    def identity(self) -> dict[str, Any]:
        return _identity(self, 1)

    def __call__(self, text: str) -> str:
        words = re.findall(r"(?:[^\W\d_]|')+", text.lower())
        return " ".join(words)


class Digits:
    """English text to the digits that were spoken: "four, two" and "for to" and "4-2." and "forty-two" give "42".

    Homophones count as the digit (DIGIT_WORDS), words that are no number are left out. Numbers are read as a
    recogniser writes digits that it heard in a row: "forty two" is 42, "forty" alone 40, "two hundred (and) five" 205,
    "double five" 55.
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
    """The digits that one word stands for, given its neighbours; empty for a word that is no number."""
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
