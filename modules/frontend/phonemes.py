"""Pronunciations of English words: a dictionary, and plain rules for the words it lacks.

Phonemes are ARPAbet symbols without stress, as in pocketsphinx's model of US English.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

PHONEMES = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
MARKS = ",.?!;:"  # punctuation that a model hears
CAPITAL_LETTERS = frozenset(("ai", "am", "id", "un", "us"))  # in capitals letters, else words
A_ALONE = "ay"  # a word of the dictionary that sounds like the letter a; "a" itself is the article
APOSTROPHES = str.maketrans("\u2019\u2018\u02bc\u0060", "''''")
# Letters that do not decompose into a base letter and an accent.
LATIN = str.maketrans({"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "th", "þ": "th", "ı": "i"})
LETTER_NAMES = {
    "a": "EY", "b": "B IY", "c": "S IY", "d": "D IY", "e": "IY", "f": "EH F", "g": "JH IY", "h": "EY CH", "i": "AY",
    "j": "JH EY", "k": "K EY", "l": "EH L", "m": "EH M", "n": "EH N", "o": "OW", "p": "P IY", "q": "K Y UW",
    "r": "AA R", "s": "EH S", "t": "T IY", "u": "Y UW", "v": "V IY", "w": "D AH B AH L Y UW", "x": "EH K S",
    "y": "W AY", "z": "Z IY",
}  # fmt: skip
# Patterns of letters with their phonemes: at each place of a word, the first that matches applies. `<` stands for the
# start of the word, `>` for its end.
RULES = [
    (pattern, tuple(phonemes.split()))
    for pattern, phonemes in (
        ("'", ""), ("<kn", "N"), ("<gn", "N"), ("<wr", "R"), ("<ps", "S"), ("<x", "Z"), ("<mc", "M AH K"),
        ("tion", "SH AH N"), ("sion", "ZH AH N"), ("cian", "SH AH N"), ("tious", "SH AH S"), ("cious", "SH AH S"),
        ("ture(?=s?>)", "CH ER"), ("augh", "AO"), ("ough", "AO"), ("eigh", "EY"), ("igh", "AY"), ("tch", "CH"),
        ("dge", "JH"), ("sch", "SH"), ("ch", "CH"), ("sh", "SH"), ("th", "TH"), ("ph", "F"),
        ("gh", "G"), ("wh", "W"), ("ck", "K"), ("rh", "R"), ("kh", "K"), ("zh", "ZH"),
        ("ng(?=s?>)", "NG"), ("n(?=[kg])", "NG"), ("qu", "K W"), ("mb(?=s?>)", "M"),
        ("(?<=[^<aeiouy])le(?=s?>)", "AH L"), ("(?<=[^<aeiouyl])led>", "AH L D"),
        ("(?<=[td])ed>", "AH D"), ("(?<=[pkfscxh])ed>", "T"),
        ("(?<=[aeiouy].)ed>|(?<=[aeiouy]..)ed>", "D"), ("(?<=[aeiouy].)ing(?=s?>)", "IH NG"),
        ("(?<=[sxz])es>|(?<=[cs]h)es>|(?<=[cg])es>", "AH Z"),
        ("(?<=[aeiouy].)e(?=s?>)|(?<=[aeiouy]..)e(?=s?>)", ""),
        ("air|are(?=s?>)", "EH R"), ("ear", "IH R"), ("eer", "IH R"), ("oar|oor", "AO R"), ("our", "AW ER"),
        ("ar", "AA R"), ("er|ir|ur", "ER"), ("or", "AO R"),
        ("ai|ay|ei|ey(?=[a-z])", "EY"), ("ey", "IY"), ("au|aw", "AO"), ("ee|ea|ie(?=.)", "IY"), ("eu|ew", "Y UW"),
        ("oa|oe", "OW"), ("oi|oy", "OY"), ("oo|ue|ui", "UW"), ("ou|ow", "AW"),
        ("a(?=[^aeiouwxy<>'][eiy])", "EY"), ("e(?=[^aeiouwxy<>']e)", "IY"), ("i(?=[^aeiouwxy<>']e)", "AY"),
        ("o(?=[^aeiouwxy<>'][eiy])", "OW"), ("u(?=[^aeiouwxy<>'][eiy])", "Y UW"), ("y(?=[^aeiouwxy<>']e)", "AY"),
        ("a>", "AH"), ("e>", "IY"), ("i>", "IY"), ("o>", "OW"), ("u>", "UW"), ("(?<=.{4})y>", "IY"),
        ("y>", "AY"), ("<y(?=[aeiou])|(?<=[aeiou])y(?=[aeiou])", "Y"),
        ("c(?=[eiy])", "S"), ("g(?=[eiy])", "JH"), ("(?<=[aeiou])s(?=[aeiou])", "Z"), ("(?<=[ptkf]e)s>", "S"),
        ("(?<=[bdgvlmnrwyaeiou])s>", "Z"),
        (r"([bcdfgklmnprstvz])(?=\1)", ""),
        ("a", "AE"), ("b", "B"), ("c", "K"), ("d", "D"), ("e", "EH"), ("f", "F"), ("g", "G"), ("h", "HH"), ("i", "IH"),
        ("j", "JH"), ("k", "K"), ("l", "L"), ("m", "M"), ("n", "N"), ("o", "AA"), ("p", "P"), ("q", "K"), ("r", "R"),
        ("s", "S"), ("t", "T"), ("u", "AH"), ("v", "V"), ("w", "W"), ("x", "K S"), ("y", "IH"), ("z", "Z"),
        ("[<>]", ""),
    )
]  # fmt: skip


def is_known(word: str) -> bool:
    """Whether the dictionary has the word, in lower case."""
    return word in _dictionary()


def pronunciations(word: str) -> list[tuple[str, ...]]:
    """All variants of the dictionary, or one by rules for a word that it lacks, or that of an acronym's letters
    (`acronym_letters`).

    Raises:
        ValueError: The word has no Latin letter.
    """
    plain, dictionary = word.translate(APOSTROPHES), _dictionary()
    if names := acronym_letters(plain):
        return [tuple(" ".join(dictionary[name][0] for name in names).split())]
    letters = base_letters(plain)
    for spelling in (plain.lower(), plain.lower().strip("'"), letters):
        if spelling in dictionary:
            return [tuple(phonemes.split()) for phonemes in dictionary[spelling]]
    if not letters.strip("'"):
        raise ValueError(f"Expected `word` to have a letter from a to z, but got {word!r}.")
    has_vowels = bool(set(letters) & set("aeiouy"))
    return [(has_vowels and by_rules(letters)) or spelled(letters)]


def acronym_letters(word: str) -> list[str]:
    """The words that an acronym's letters are read as, all of them in the dictionary: GPU as g p u, GPUs and GPU's as
    g p u's, AI as ay i. Empty for every other word: contractions, and what the dictionary has, in capitals (NASA, FBI)
    or as a plural (TVs), but for CAPITAL_LETTERS."""
    core, ending = word, ""
    if (match := re.fullmatch(r"([^']+)(?:'?s|'S)", word)) and match[1].isupper():
        core, ending = match[1], "'s"
    letters = base_letters(core)
    if len(letters) < 2 or "'" in core or not core.isupper() or (ending and is_known(word.lower())):
        return []
    is_word = is_known(letters) and letters not in CAPITAL_LETTERS
    if is_word and not (ending and _is_spelled(letters)):
        return []
    names = [A_ALONE if letter == "a" else letter for letter in letters]
    return [*names[:-1], letters[-1] + ending] if ending else names


def _is_spelled(word: str) -> bool:
    """Whether the dictionary has the word with the sound of its letters."""
    return " ".join(spelled(word)) in _dictionary().get(word, [])


def _is_shouted(words: Sequence[str], place: int) -> bool:
    """Whether the word in capitals at a place is an ordinary one with stress: TELL US NOW, I AM sure."""
    if words[place] == "AM" and words[max(0, place - 1)] == "I":
        return True
    beside = [*words[max(0, place - 1) : place], *words[place + 1 : place + 2]]
    capitals = [one.lower() for one in beside if len(one) > 1 and one.isupper()]
    return any(is_known(one) and not _is_spelled(one) and set(one) & set("aeiouy") for one in capitals)


def spoken_words(text: str) -> list[str]:
    """Words of an English sentence as the dictionary spells them: lower case, with apostrophes, without other
    punctuation, parts of words with hyphens apart. Acronyms that are read letter by letter keep their capitals."""
    tokens = re.findall(r"'?[^\W_]+(?:'[^\W_]+)*'?", unicodedata.normalize("NFC", text).translate(APOSTROPHES))
    inner = [token.strip("'") for token in tokens]
    is_headline = text.isupper() and sum(len(one) > 1 for one in inner) > 1
    dictionary, found = _dictionary(), []
    for place, (token, word) in enumerate(zip(tokens, inner, strict=True)):
        lower = token.lower()
        # 'em and dogs' have apostrophes of their own; those around others are quotation marks.
        spellings = (lower, lower.removesuffix("'"), lower.removeprefix("'"), word.lower())
        known = next((spelling for spelling in spellings if spelling in dictionary), None)
        is_acronym = acronym_letters(word) and not is_headline and not (known and _is_shouted(inner, place))
        found.append(word if is_acronym else known or word.lower())
    return found


def marked_words(text: str) -> list[tuple[str, str]]:
    """The words of a text whose numbers are words (`spoken_words`), each with the first punctuation mark after it, or
    "". Acronyms are the words of their letters."""
    words, found = iter(spoken_words(text)), []
    for token in text.split():
        for word in islice(words, len(spoken_words(token))):
            found += [(one, "") for one in acronym_letters(word) or [word]]
        after = re.split(r"[^\W_]", token)[-1]
        mark = next((character for character in after if character in MARKS), "")
        if found and mark and not found[-1][1]:
            found[-1] = (found[-1][0], mark)
    return found


def spelled(letters: str) -> tuple[str, ...]:
    """Names of the letters a to z in the text."""
    return tuple(" ".join(LETTER_NAMES[letter] for letter in letters if letter in LETTER_NAMES).split())


def by_rules(letters: str) -> tuple[str, ...]:
    """Phonemes of a word in the letters a to z and apostrophes, by `RULES`."""
    text, place = f"<{letters}>", 0
    phonemes: list[str] = []
    while place < len(text):
        match, symbols = next((match, symbols) for rule, symbols in _rules() if (match := rule.match(text, place)))
        phonemes += symbols
        place = match.end()
    return tuple(phonemes)


def base_letters(word: str) -> str:
    """a to z and apostrophes; accents are removed, other characters dropped."""
    decomposed = unicodedata.normalize("NFKD", word.lower().translate(LATIN))
    return re.sub("[^a-z']", "", decomposed)


@lru_cache(maxsize=1)
def _rules() -> list[tuple[re.Pattern[str], tuple[str, ...]]]:
    return [(re.compile(pattern), phonemes) for pattern, phonemes in RULES]


@lru_cache(maxsize=1)
def _dictionary() -> dict[str, list[str]]:
    """Variants of every word of pocketsphinx's dictionary, the first one first."""
    spec = find_spec("pocketsphinx")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("Pronunciations need pocketsphinx's dictionary: pip install pocketsphinx")
    file = Path(next(iter(spec.submodule_search_locations))) / "model" / "en-us" / "cmudict-en-us.dict"
    found: dict[str, list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        word, _, phonemes = line.partition(" ")
        found.setdefault(word.partition("(")[0], []).append(phonemes)
    return found
