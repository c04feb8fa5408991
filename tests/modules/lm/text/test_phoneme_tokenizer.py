"""The phonetic spelling against pronunciations read from the dictionary's file by hand."""

import random
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from modules.frontend.gruut_phonemes import ARPABET, arpabet, pronounced_alone
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


def arpabet_of(spelling: str) -> list[str]:
    """Phonemes of each word of a spelling."""
    names = {character: phoneme for phoneme, character in CHARACTERS.items()}
    return [" ".join(names.get(character, character) for character in word) for word in spelling.split()]


def test_the_share_of_spelled_words_is_chosen_by_place_and_text():
    """Guards against training texts that change with the code: the words that were spelled stay spelled."""
    tokenizer, text = PhonemeTokenizer(), "The café has a half-open door, and the old cat sleeps there."
    plain, mixed = tokenizer.spelling(text).split(), tokenizer.spelling(text, 0.4).split()
    spelled = [other for one, other in zip(plain, mixed, strict=True) if one != other]
    assert spelled == ["cafe", "has", "half", "door,", "and", "cat", "there."]


def test_gruut_speaks_unknown_words_and_homographs():
    """Guards against unknown words in letters, one sound for both meanings of a word, other words changed by the
    option, and phonemes that stand beside the wrong word."""
    pytest.importorskip("gruut", reason="pip install gruut==2.4.0")
    tokenizer, plain = PhonemeTokenizer(pronouncer="gruut"), PhonemeTokenizer()
    text = "They used to live here, but the live band had to close."
    found, without = tokenizer.spelling(text), plain.spelling(text)
    assert arpabet_of(found)[3] == "L IH V" and arpabet_of(found)[7] == "L AY V"
    assert arpabet_of(plain.spelling("live"))[0] in ("L AY V", "L IH V")
    assert [one for number, one in enumerate(found.split()) if number not in (3, 7, 11)] == [
        one for number, one in enumerate(without.split()) if number not in (3, 7, 11)
    ]
    assert arpabet_of(tokenizer.spelling("A blorptastic day."))[1] == "B L AO R P T AE S T IH K"
    assert plain.spelling("A blorptastic day.").split()[1] == "blorptastic"
    assert tokenizer.spelling("The day, blorptastic!").endswith(tokenizer.spelling("blorptastic") + "!")
    assert "blorptastic" in tokenizer.spelling("One blorptastic day", 1.0)


def test_every_symbol_of_gruut_has_a_phoneme():
    """Guards against a word of gruut's lexicon, or a rule of its model, that ends a training."""
    pytest.importorskip("gruut", reason="pip install gruut==2.4.0")
    tokenizer, letters = PhonemeTokenizer(pronouncer="gruut"), random.Random(0)
    assert set(ARPABET.values()) == set(CHARACTERS)
    for _ in range(20):
        word = "".join(letters.choices("etaoinshrdlucmfwypvbgkjqxz'", k=letters.randint(2, 10))) + "q"
        spelling = tokenizer.spelling(word)
        assert len(spelling.split()) == 1
    with pytest.raises(ValueError, match="symbols of gruut"):
        arpabet(["ʔ"])


def test_without_gruut_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gruut", None)
    pronounced_alone.cache_clear()
    assert PhonemeTokenizer().spelling("blorptastic") == "blorptastic"
    with pytest.raises(ImportError, match="pip install gruut"):
        PhonemeTokenizer(pronouncer="gruut").encode("blorptastic")
    with pytest.raises(ValueError, match="cmudict or gruut"):
        PhonemeTokenizer(pronouncer="espeak")
