"""PhonemeTokenizer: English words as the phonemes of a dictionary, others letter by letter or by gruut."""

import re
from collections.abc import Sequence
from typing import Literal

from modules.frontend.gruut_phonemes import pronounced_alone, pronounced_homographs
from modules.frontend.phonemes import PHONEMES, base_letters, is_known, marked_words, pronunciations
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.provenance import digest

CHARACTERS = dict(zip(PHONEMES.split(), "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@#$", strict=True))


class PhonemeTokenizer(ByteTokenizer):
    """Encodes English text as a phonetic spelling: one byte per ARPAbet phoneme of the words in the CMU dictionary (its
    first variant; pocketsphinx carries it), lower-case letters for words that it lacks. Words stay separated by spaces
    and keep the punctuation mark after them.

    Args:
        spelled_share: Share of the known words that training examples spell with letters, so that the model learns to
            speak unknown ones; chosen by a hash of the text and the word's place.
        pronouncer: gruut gives unknown words phonemes in place of letters, and homographs ("read", "record") those of
            their part of speech in the text. It is needed for training and for speaking: pip install gruut==2.4.0.

    Raises:
        ValueError: From `encode`, if the text has a digit (`say` writes numbers as words first), or a word has no Latin
            letter.
        ImportError: From `encode`, if `pronouncer` is gruut and that is not installed.
    """

    def __init__(self, spelled_share: float = 0.0, pronouncer: Literal["cmudict", "gruut"] = "cmudict"):
        super().__init__()
        if not 0 <= spelled_share <= 1:
            raise ValueError(f"Expected `spelled_share` in [0, 1], but got {spelled_share}.")
        if pronouncer not in ("cmudict", "gruut"):
            raise ValueError(f"Expected `pronouncer` to be cmudict or gruut, but got {pronouncer!r}.")
        self.spelled_share, self.pronouncer = spelled_share, pronouncer

    def encode(self, text: str) -> list[int]:
        return super().encode(self.spelling(text))

    def encode_example(self, text: str) -> list[int]:
        return super().encode(self.spelling(text, self.spelled_share))

    def decode(self, tokens: Sequence[int]) -> str:
        """Raises ValueError: a phonetic spelling has no words to compare, so that speech recognition needs another
        tokenizer."""
        raise ValueError("Expected a tokenizer of written words for speech recognition, but got PhonemeTokenizer.")

    def spelling(self, text: str, spelled_share: float = 0.0) -> str:
        """Return the phonetic spelling, with `spelled_share` of the known words in letters."""
        if found := re.search(r"\d", text):
            raise ValueError(f"Expected `text` with numbers written as words, but got {found[0]!r} in {text!r}.")
        found_words = marked_words(text)
        words = [plain_letters(word) for word, _ in found_words]
        marks = [mark for _, mark in found_words]
        if not words:
            raise ValueError(f"Expected `text` to hold a letter from a to z, but got {text!r}.")
        pieces = []
        for place, (word, mark, phonemes) in enumerate(zip(words, marks, self._phonemes(words, marks), strict=True)):
            is_spelled = not phonemes or is_chosen(f"{place} {word} {text}", spelled_share)
            pieces.append((word if is_spelled else "".join(CHARACTERS[phoneme] for phoneme in phonemes)) + mark)
        return " ".join(pieces)

    def _phonemes(self, words: Sequence[str], marks: Sequence[str]) -> list[tuple[str, ...]]:
        """Phonemes of each word; () for one that stays in letters."""
        found = [pronunciations(word)[0] if is_known(word) else () for word in words]
        if self.pronouncer == "gruut":
            chosen = pronounced_homographs([word + mark for word, mark in zip(words, marks, strict=True)])
            found = [
                chosen.get(place) or sounds or pronounced_alone(words[place]) for place, sounds in enumerate(found)
            ]
        return found


def plain_letters(word: str) -> str:
    """The word in letters from a to z and apostrophes. Raises ValueError if there is no letter."""
    letters = base_letters(word)
    if not letters.strip("'"):
        raise ValueError(f"Expected words with a letter from a to z, but got {word!r}.")
    return letters


def is_chosen(place: str, share: float) -> bool:
    """Whether this place is among the `share` of all."""
    return bool(share) and int(digest(place)[:8], 16) < share * 16**8
