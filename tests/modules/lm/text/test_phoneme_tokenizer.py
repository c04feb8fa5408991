"""The phonetic spelling against pronunciations read from the dictionary's file by hand."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from modules.lm.text.phoneme_tokenizer import CHARACTERS, PhonemeTokenizer


def first_pronunciation(word: str) -> list[str]:
    """The first line of the word in pocketsphinx's file."""
    folder = Path(next(iter(find_spec("pocketsphinx").submodule_search_locations)))
    lines = (folder / "model" / "en-us" / "cmudict-en-us.dict").read_text().splitlines()
    return next(line.split()[1:] for line in lines if line.split()[0] == word)


def test_known_words_are_phonemes_and_others_letters():
    """Guards against other variants, lost words or punctuation, and characters that stand for two things."""
    assert len(set(CHARACTERS.values())) == 39 and not set(CHARACTERS.values()) & set(
        "abcdefghijklmnopqrstuvwxyz',.?! "
    )
    told = "".join(CHARACTERS[phoneme] for phoneme in first_pronunciation("doesn't"))
    cat = "".join(CHARACTERS[phoneme] for phoneme in first_pronunciation("cat"))
    tokenizer = PhonemeTokenizer()
    assert tokenizer.spelling("Doesn't zyzzyva, \u201ccat\u201d - caf\u00e9s?") == f"{told} zyzzyva, {cat} " + (
        tokenizer.spelling("cafes") + "?"
    )
    assert bytes(tokenizer.encode("cat zyzzyva!")) == f"{cat} zyzzyva!".encode()


def test_hyphens_separate_words():
    tokenizer = PhonemeTokenizer()
    assert tokenizer.spelling("half-hearted.") == tokenizer.spelling("half hearted.")


@pytest.mark.parametrize("text", ["room 4", "", " - ", "\u4e2d\u6587"])
def test_texts_that_cannot_be_spelled_are_refused(text):
    """Guards against silently dropped numbers and words."""
    with pytest.raises(ValueError, match="Expected"):
        PhonemeTokenizer().encode(text)
