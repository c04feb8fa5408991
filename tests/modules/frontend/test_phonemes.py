"""Pronunciations against pocketsphinx's own look-up; letter rules against the dictionary, which they do not use."""

import random
import re

import pytest

from modules.frontend.phonemes import by_rules, marked_words, pronunciations, spoken_words

WORDS = ("hello", "isn't", "record", "read", "tomorrow", "a", "the", "'tis", "zurich")
SYMBOLS = {
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH", "K",
    "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
}  # fmt: skip


@pytest.fixture(scope="module")
def decoder():
    from pocketsphinx import Decoder

    return Decoder(lm=None, loglevel="FATAL")


def test_known_words_are_those_of_the_dictionary(decoder) -> None:
    """Guards against lost variants: the first is pocketsphinx's own, further ones are its word(2), word(3)."""
    for word in WORDS:
        found = [" ".join(phonemes) for phonemes in pronunciations(word)]
        names = [word, *(f"{word}({number})" for number in range(2, len(found) + 2))]
        assert [*found, None] == [decoder.lookup_word(name) for name in names]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("Hello", "HH AH L OW"),
        ("isn’t", "IH Z AH N T"),
        ("café", "K AH F EY"),
        ("FBI", "EH F B IY AY"),
        ("XQZ", "EH K S K Y UW Z IY"),
        ("NASA", "N AE S AH"),
        ("US", "Y UW EH S"),
        ("us", "AH S"),
        ("AI", "EY AY"),
        ("GPUs", "JH IY P IY Y UW Z"),
        ("GPA's", "JH IY P IY EY Z"),
        ("USA's", "Y UW EH S EY Z"),
        ("IT", "IH T"),
        ("DON'T", "D OW N T"),
        ("FBI'S", "EH F B IY AY Z"),
        ("GPU'S", "JH IY P IY Y UW Z"),
        ("LAS", "L AA S"),
        ("bcdfg", "B IY S IY D IY EH F JH IY"),
        ("blorptastic", "B L AO R P T AE S T IH K"),
        ("fleem", "F L IY M"),
        ("snorkelling", "S N AO R K EH L IH NG"),
        ("knarphing", "N AA R F IH NG"),
        ("glape", "G L EY P"),
        ("shrimbled", "SH R IH M B AH L D"),
    ],
)
def test_first_pronunciation(word: str, expected: str) -> None:
    """Guards against words without sound, and silent letters, digraphs and acronyms read letter by letter."""
    assert " ".join(pronunciations(word)[0]) == expected


def test_rules_agree_with_the_dictionary() -> None:
    """Guards against rules that do not sound like English: the phoneme error on words that the dictionary has is .20
    (letters alone, without digraphs and silent e: above .4)."""
    from jiwer import wer

    from modules.frontend.phonemes import _dictionary

    words = random.Random(0).sample(sorted(word for word in _dictionary() if re.fullmatch("[a-z]{3,}", word)), 1000)
    assert wer([_dictionary()[word][0] for word in words], [" ".join(by_rules(word)) for word in words]) < 0.28


def test_every_word_with_a_letter_has_known_phonemes() -> None:
    """Guards against empty pronunciations and symbols that the acoustic model lacks."""
    generator = random.Random(0)
    words = ["".join(generator.choices("aeioubcdfghjklmnpqrstvwxyz'é", k=generator.randint(1, 9))) for _ in range(2000)]
    words += [*"abcdefghijklmnopqrstuvwxyz", "e", "'e", "ñ", "ß", "ø", "Éa", "x2", "gh", "n'"]
    for word in words:
        if word.strip("'"):
            found = pronunciations(word)
            assert found and all(phonemes and set(phonemes) <= SYMBOLS for phonemes in found), word


@pytest.mark.parametrize("word", ["", "7", "'", "日本", "...", "🙂"])
def test_no_letters_no_pronunciation(word: str) -> None:
    with pytest.raises(ValueError, match="letter from a to z"):
        pronunciations(word)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello: World. It's seven thirty p.m., isn't it?", "hello world it's seven thirty p m isn't it"),
        ("“Well-known” — 'don’t'… 'tis the dogs' day", "well known don't 'tis the dogs' day"),
        ("He said 'hello' to us.", "he said hello to us"),
        ("FBI agents at the XQZ", "fbi agents at the XQZ"),
        ("AI for us in the US: TVs, GPUs.", "AI for us in the US tvs GPUs"),
        ("TELL US", "tell us"),
        ("He shouted TELL US NOW, I AM sure.", "he shouted tell us now i am sure"),
        ("At seven AM the US GDP fell. You DON'T say!", "at seven AM the US gdp fell you don't say"),
        ("AI!", "AI"),
        ("STOP THE BLORP", "stop the blorp"),
        ("(one)[two]{three}_four_", "one two three four"),
        ("?! …", ""),
    ],
)
def test_spoken_words(text: str, expected: str) -> None:
    """Guards against punctuation in words, lost apostrophes, and quotation marks kept as apostrophes."""
    assert spoken_words(text) == expected.split()


def test_acronyms_are_the_words_of_their_letters() -> None:
    """Guards against "eye" for AI, the article in GPA, and a mark that is lost with the letters."""
    found = " ".join(word + mark for word, mark in marked_words("AI, GPAs and NASA in the US. It's us!"))
    assert found == "ay i, g p a's and nasa in the u s. it's us!"
