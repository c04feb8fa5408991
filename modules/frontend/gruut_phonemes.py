"""Phonemes by gruut (MIT, offline): of words that the dictionary lacks, and of homographs by their part of speech.

gruut's US English symbols are IPA; phonemes here are ARPAbet without stress, as in modules/frontend/phonemes.py.
"""

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from modules.frontend.phonemes import MARKS

INSTALL = "pip install gruut==2.4.0"
ARPABET = {
    "aɪ": "AY", "aʊ": "AW", "b": "B", "d": "D", "d͡ʒ": "JH", "eɪ": "EY", "f": "F", "h": "HH", "i": "IY", "j": "Y",
    "k": "K", "l": "L", "m": "M", "n": "N", "oʊ": "OW", "p": "P", "s": "S", "t": "T", "t͡ʃ": "CH", "u": "UW", "v": "V",
    "w": "W", "z": "Z", "æ": "AE", "ð": "DH", "ŋ": "NG", "ɑ": "AA", "ɔ": "AO", "ɔɪ": "OY", "ə": "AH", "ɚ": "ER",
    "ɛ": "EH", "ɡ": "G", "ɪ": "IH", "ɹ": "R", "ʃ": "SH", "ʊ": "UH", "ʌ": "AH", "ʒ": "ZH", "θ": "TH",
}  # fmt: skip
STRESS = str.maketrans("", "", "ˈˌ")
# Words of gruut's lexicon that sound different as different parts of speech; not "a", the article and the letter.
HOMOGRAPHS = """
    SELECT word FROM word_phonemes WHERE role NOT IN ('', 'gruut:letter')
    GROUP BY word HAVING COUNT(DISTINCT role) > 1
"""


def arpabet(symbols: Sequence[str]) -> tuple[str, ...]:
    """gruut's phonemes of a word as ARPAbet, without stress. Raises ValueError for a symbol that has none."""
    plain = [symbol.translate(STRESS) for symbol in symbols]
    if odd := [symbol for symbol in plain if symbol not in ARPABET]:
        raise ValueError(f"Expected symbols of gruut's US English, but got {odd[0]!r}.")
    return tuple(ARPABET[symbol] for symbol in plain)


@lru_cache(maxsize=100_000)
def pronounced_alone(word: str) -> tuple[str, ...]:
    """Phonemes of a word in lower-case letters, whatever is beside it; () if gruut has none. Raises ImportError."""
    return tuple(phoneme for _, phonemes in _tagged(word) for phoneme in phonemes)


def pronounced_homographs(tokens: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """Phonemes of the homographs of a sentence by their place. `tokens`: its words in lower case, each with the
    punctuation mark after it. Empty if gruut divides the sentence into other words. Raises ImportError."""
    words = [token.rstrip(MARKS) for token in tokens]
    places = [place for place, word in enumerate(words) if word in homographs()]
    if not places:
        return {}
    found = _tagged(" ".join(tokens))
    if len(found) != len(words):
        return {}
    return {place: found[place][1] for place in places if found[place][0] == words[place]}


@lru_cache(maxsize=1)
def homographs() -> frozenset[str]:
    """The homographs that gruut tells apart. Raises ImportError without gruut."""
    _gruut()
    import gruut_lang_en

    lexicon = sqlite3.connect(f"file:{Path(gruut_lang_en.__file__).parent / 'lexicon.db'}?mode=ro", uri=True)
    try:
        return frozenset(word for (word,) in lexicon.execute(HOMOGRAPHS))
    finally:
        lexicon.close()


def _tagged(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Each spoken word of the text in lower case with its phonemes."""
    sentences = _gruut().sentences(text, lang="en-us")
    return [
        (word.text.lower(), arpabet(word.phonemes or ())) for words in sentences for word in words if word.is_spoken
    ]


def _gruut() -> Any:
    try:
        import gruut
    except ImportError as error:
        raise ImportError(f"Expected gruut for `pronouncer: gruut`, but it is not installed: {INSTALL}") from error
    return gruut
