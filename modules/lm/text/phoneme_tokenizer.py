"""PhonemeTokenizer: English words as the phonemes of a dictionary, others letter by letter."""

import re

from modules.frontend.phonemes import base_letters, is_known, pronunciations, spoken_words
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.provenance import digest

PHONEMES = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
CHARACTERS = dict(zip(PHONEMES.split(), "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@#$", strict=True))
PUNCTUATION = ",.?!;:"


class PhonemeTokenizer(ByteTokenizer):
    """Encodes English text as a phonetic spelling: one byte per ARPAbet phoneme of the words in the CMU dictionary (its
    first variant; pocketsphinx carries it), lower-case letters for words that it lacks. Words stay separated by spaces
    and keep the punctuation mark after them.

    Args:
        spelled_share: Share of the known words that training examples spell with letters, so that the model learns to
            speak unknown ones; chosen by a hash of the text and the word's place.

    Raises:
        ValueError: From `encode`, if the text has a digit (`say` writes numbers as words first), or a word has no Latin
            letter.
    """

    def __init__(self, spelled_share: float = 0.0):
        super().__init__()
        if not 0 <= spelled_share <= 1:
            raise ValueError(f"Expected `spelled_share` in [0, 1], but got {spelled_share}.")
        self.spelled_share = spelled_share

    def encode(self, text: str) -> list[int]:
        return super().encode(self.spelling(text))

    def encode_example(self, text: str) -> list[int]:
        return super().encode(self.spelling(text, self.spelled_share))

    def spelling(self, text: str, spelled_share: float = 0.0) -> str:
        """Return the phonetic spelling, with `spelled_share` of the known words in letters."""
        if found := re.search(r"\d", text):
            raise ValueError(f"Expected `text` with numbers written as words, but got {found[0]!r} in {text!r}.")
        tokens = []
        for token in text.split():
            spelled = [self._spelled(word, f"{len(tokens)} {text}", spelled_share) for word in spoken_words(token)]
            if spelled and token[-1] in PUNCTUATION:
                spelled[-1] += token[-1]
            tokens += spelled
        if not tokens:
            raise ValueError(f"Expected `text` to hold a letter from a to z, but got {text!r}.")
        return " ".join(tokens)

    def _spelled(self, word: str, place: str, spelled_share: float) -> str:
        letters = base_letters(word)
        if not letters.strip("'"):
            raise ValueError(f"Expected words with a letter from a to z, but got {word!r}.")
        is_chosen = spelled_share and int(digest(f"{place} {word}")[:8], 16) < spelled_share * 16**8
        if is_chosen or not is_known(letters):
            return letters
        return "".join(CHARACTERS[phoneme] for phoneme in pronunciations(letters)[0])
