"""Sentences, and long ones in parts, against brute force: nothing lost, nothing longer than allowed."""

import random

import pytest

from modules.frontend.sentences import split_long, split_sentences

LONG = {
    "words": "word " * 20_000,
    "clauses": "and so, on and on; " * 5_300,
    "one word": "a" * 100_000,
    "brackets": "(\"' x " * 17_000,
}


def test_full_stops_of_abbreviations_and_lists_end_no_sentence() -> None:
    """Guards against "St." and "1." spoken as sentences, and against two sentences in one."""
    text = "Elm St. is near. I live on Elm St. He left at 7 p.m. Then Prof. Lee came, approx. 5 years old. "
    text += "1. Go on. 2. Stop."
    sentences = split_sentences(text, "en")
    assert "".join(sentences) == text
    assert [sentence.strip() for sentence in sentences] == [
        "Elm St. is near.",
        "I live on Elm St.",
        "He left at 7 p.m.",
        "Then Prof. Lee came, approx. 5 years old.",
        "1. Go on.",
        "2. Stop.",
    ]


@pytest.mark.parametrize(
    ("language", "text"),
    [("de", "Das ist z.B. gut.| Am 3. Mai.| Ende."), ("zh", "你好。|世界！|你？"), ("xx", "Ab cd.| Ef gh!| Ij")],
)
def test_other_and_unknown_languages_have_sentences(language: str, text: str) -> None:
    pieces = [piece.strip() for piece in split_sentences(text.replace("|", ""), language)]
    assert pieces == [piece.strip() for piece in text.split("|")]


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
def test_a_hundred_thousand_characters_are_cut_without_loss(text: str) -> None:
    bounds = split_long(text, 300)
    pieces = [text[start:end] for start, end in bounds]
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert max(map(len, pieces)) <= 300
    assert len(pieces) <= 2 * len(text) / 300 + 1


def test_a_cut_is_at_a_clause_else_a_word_else_anywhere() -> None:
    text = "one two; three four five six seven eightnineteneleventwelve"
    parts = ["one two;", "three four five", "six seven", "eightninetenele", "ventwelve"]
    assert [text[start:end] for start, end in split_long(text, 15)] == parts


def test_words_are_cut_only_where_one_alone_is_too_long() -> None:
    """400 random texts: a word of at most the limit is in one part."""
    choose = random.Random(0)
    for _ in range(400):
        words = ["x" * choose.randint(1, 12) + choose.choice(["", "", ",", ";"]) for _ in range(choose.randint(1, 30))]
        text, limit = " ".join(words), choose.randint(13, 40)
        parts = [text[start:end] for start, end in split_long(text, limit)]
        assert [word for part in parts for word in part.split()] == words
        assert all(len(part) <= limit for part in parts)
