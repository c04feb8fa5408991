"""Normalisers: their results for texts of many scripts, and the record that identifies a set of rules."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jiwer
import pytest
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from callbacks.synthesis import readable_name
from modules.api import Audio, Prompt
from modules.recognition import Normaliser, error_rate
from modules.search.candidate_store import CandidateStore, file_name
from modules.search.scorer import check_texts
from modules.verifiers.ensemble import Ensemble
from modules.verifiers.likelihood import Likelihood
from modules.verifiers.recognisers import normalise
from modules.verifiers.recognisers.normalise import (
    BasicWords,
    Digits,
    EnglishWords,
    LetterWords,
    SeedTTSChinese,
    SeedTTSEnglish,
    SpokenEnglish,
)
from modules.verifiers.transcript import Transcript

EVERY_NORMALISER = (
    *(EnglishWords(), SpokenEnglish(), BasicWords(), SeedTTSEnglish(), SeedTTSChinese(), LetterWords(), Digits()),
)


def test_identities_differ_and_hold_no_module() -> None:
    """Guards against two normalisers with one record, records that JSON cannot represent, and module paths in keys."""
    records = [json.dumps(one.identity) for one in EVERY_NORMALISER]
    assert len(set(records)) == len(records)
    assert not any("modules." in record for record in records)


def test_identity_follows_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against reusing scores under another table: the record depends on the content, not on the file's name."""

    def record(name: str, content: str) -> str:
        (tmp_path / name).write_text(content)
        return json.dumps(EnglishWords(tmp_path / name).identity)

    first = record("a.json", '{"colour": "color"}')
    assert record("b.json", '{ "colour":  "color" }') == first
    assert record("a.json", '{"colour": "colour"}') != first != json.dumps(EnglishWords().identity)
    plain = Digits().identity
    monkeypatch.setitem(normalise.DIGIT_WORDS, "4", ("four",))
    assert Digits().identity != plain


def test_identity_follows_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against reusing scores after a change of rules: the published punctuation is recorded."""
    normalisers: list[Normaliser] = [SeedTTSEnglish(), SeedTTSChinese()]
    records = [one.identity for one in normalisers]
    monkeypatch.setattr(normalise, "PUBLISHED_PUNCTUATION", normalise.re.compile("[!]"))
    assert all(one.identity != record for one, record in zip(normalisers, records, strict=True))


# Normaliser, reference and transcript, both as normalised by a person, and the unit of the error rate.
PAIRS = [
    # Latin
    (SpokenEnglish(), "It’s 7:30 p.m.", "it's seven thirty pm", "it is 730 pm", "it is 730 pm", "word"),
    (
        SpokenEnglish(),
        "Don’t pay $1 (please)!",
        "don't pay one dollar",
        "do not pay $1 please",
        "do not pay $1",
        "word",
    ),
    (LetterWords(), "She said: ‘Don’t.’", "she said don't", "she said don't", "she said don't", "word"),
    (LetterWords(), "“‘Yes,’ he said—‘yes’", "yes he said yes", "yes he said yes", "yes he said yes", "word"),
    (LetterWords(), "Cafe\u0301 au lait", "café au late", "café au lait", "café au late", "word"),
    (BasicWords(), "L’été [fini]", "l'été fini", "l été fini", "l été fini", "word"),
    # Cyrillic
    (BasicWords(), "М’який знак", "мʼякий знак", "м який знак", "м який знак", "word"),
    (BasicWords(), "Привет, мир!", "привет мирт", "привет мир", "привет мирт", "character"),
    # Greek
    (BasicWords(), "Καλημέρα, κόσμε.", "καλημερα κόσμε", "καλημέρα κόσμε", "καλημερα κόσμε", "character"),
    # Arabic, with vowel signs, and Persian with a zero-width non-joiner
    (BasicWords(), "مَرْحَبًا!", "مَرْحَبا", "مَرْحَبًا", "مَرْحَبا", "character"),
    (BasicWords(), "می\u200cروم", "میروم", "میروم", "میروم", "word"),
    # Hebrew
    (BasicWords(), "שָׁלוֹם עולם", "שָׁלוֹם, עולה", "שָׁלוֹם עולם", "שָׁלוֹם עולה", "character"),
    # Devanagari
    (BasicWords(), "नमस्ते।", "नमसते", "नमस्ते", "नमसते", "character"),
    (LetterWords(), "हिन्दी भाषा", "हिन्दी भाषा", "हिन्दी भाषा", "हिन्दी भाषा", "word"),
    # Tamil: one word, another word
    (BasicWords(), "வணக்கம்", "வணக்கம", "வணக்கம்", "வணக்கம", "word"),
    # Thai
    (BasicWords(), "สวัสดี ครับ", "สวัสดีคับ", "สวัสดีครับ", "สวัสดีคับ", "character"),
    # Han
    (BasicWords(), "你好，世界！", "你好世间", "你好世界", "你好世间", "character"),
    # Kana, with half-width forms
    (BasicWords(), "ｶﾞラス、です", "ガラスです", "ガラスです", "ガラスです", "character"),
    # Hangul
    (BasicWords(), "안녕하세요, 세계", "안녕하세요 세게", "안녕하세요 세계", "안녕하세요 세게", "character"),
]


@pytest.mark.parametrize(("normaliser", "reference", "heard", "by_hand", "heard_by_hand", "unit"), PAIRS)
def test_pairs_by_hand(
    normaliser: Normaliser, reference: str, heard: str, by_hand: str, heard_by_hand: str, unit: str
) -> None:
    """Guards against vowel signs that are deleted or split words, and apostrophes that cause errors in correct
    words."""
    expected = (jiwer.wer if unit == "word" else jiwer.cer)(by_hand, heard_by_hand)
    assert normaliser(reference) == by_hand and normaliser(heard) == heard_by_hand
    assert error_rate(normaliser(reference), normaliser(heard), unit) == pytest.approx(expected)


def test_hindi_and_tamil_numbers() -> None:
    """Guards against the results of a normaliser without vowel signs: .167 for this pair, three words for this one."""
    normalise = BasicWords()
    assert error_rate(normalise("नमस्ते"), normalise("नमसत"), "character") == pytest.approx(2 / 6)
    assert len(normalise("வணக்கம்").split()) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("$1", "one dollar"),
        ("1%", "one percent"),
        ("50 %", "fifty per cent"),
        ("€3", "3€"),
        ("$20 million", "twenty million dollars"),
        ("$2.50", "two dollars and fifty cents"),
        ("50¢", "fifty cents"),
        ("¥100 million", "one hundred million yen"),
        ("7:30 p.m.", "seven thirty p m"),
        ("7:05", "seven oh five"),
        ("7:00 a.m.", "seven o’clock am"),
        ("2 1/2", "two and a half"),
        ("2½", "two and one half"),
        ("200 1/2", "two hundred and a half"),
        ("1/2", "a half"),
        ("1/3", "one third"),
        ("1/3 of it", "a third of it"),
        ("1/5", "a fifth"),
        ("2 1/3", "two and a third"),
        ("1/10", "one tenth"),
        ("3/4", "three quarters"),
        ("-5°", "minus five degrees"),
        ("-$5", "minus five dollars"),
        ("$.50", "fifty cents"),
        ("¢50", "fifty cents"),
        ("Tom & Jerry", "Tom and Jerry"),
        ("Stop [now]", "stop now"),
        ("It`s John´s", "it's John's"),
    ],
)
def test_english_that_sounds_alike(first: str, second: str) -> None:
    """Guards against errors on correct speech if a text has signs, times or fractions in figures."""
    assert SpokenEnglish()(first) == SpokenEnglish()(second) != ""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("one dollar", "one"),
        ("one percent", "one"),
        ("one dollar", "one percent"),
        ("$5", "five"),
        ("minus five", "five"),
        ("minus five dollars", "five dollars"),
        ("half past seven", "7:30"),
        ("2 1/2", "two"),
        ("1/5", "fifteenth"),
        ("1/6", "sixteenth"),
        ("one third", "third"),
        ("Stop (now)", "stop"),
        ("7:30", "seven"),
    ],
)
def test_english_that_sounds_different(first: str, second: str) -> None:
    """Guards against accepting words that were not spoken."""
    assert SpokenEnglish()(first) != SpokenEnglish()(second)


def test_whispers_own_normaliser_stays_as_published() -> None:
    """Guards against corrections in tables that are compared with published ones."""
    published = EnglishTextNormalizer({})
    for text in ("It’s $1 (or 5%) at 7:30 p.m.", "one dollar", "2 1/2 [door]"):
        assert EnglishWords()(text) == published(text).strip()


def test_invisible_characters_and_emoji_are_not_words() -> None:
    """Guards against a variation selector or a joiner that forms or ends a word."""
    assert BasicWords()("so\u00adft \u2764\ufe0f \u200fשלום 👩\u200d💻 1\ufe0f\u20e3") == "soft שלום 1"


@pytest.mark.parametrize("name", [file_name, readable_name])
def test_file_names_keep_vowel_signs(name: Callable[[str], str]) -> None:
    """Guards against file names unreadable in their script, and names longer than file systems allow."""
    assert name("नमस्ते दुनिया") == "नमस्ते_दुनिया" and name("வணக்கம்!").rstrip("_") == "வணக்கம்"
    assert file_name("a-b c: (d)") == "a-b_c_d_"


def test_keys_of_any_script_give_names_of_at_most_255_bytes(tmp_path: Path) -> None:
    """Guards against a store that cannot write the candidates of a long Thai or Hindi key."""
    for key in ("ก" * 99, "𠀀" * 99, "a" * 99):
        assert len(CandidateStore(tmp_path).path({"prompt": {"key": key}}).name.encode()) <= 255 - 32


class Deaf:
    """A recogniser that returns empty transcripts."""

    model_hash, families = "deaf", frozenset({"deaf"})

    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        return [""] * len(audios)

    def flops(self, seconds: float) -> float:
        return 0.0


def test_a_prompt_of_which_nothing_is_left_is_refused() -> None:
    """Guards against a sweep in which every score of a prompt is silently NaN, including within an ensemble."""
    prompts = [Prompt("good", "hello"), Prompt("k", "..."), Prompt("none", "")]
    transcript = Transcript(Deaf(), BasicWords())
    pair = Ensemble([Likelihood(), transcript])
    check_texts([prompts[0], prompts[2]], [transcript, pair])
    for verifier in (transcript, pair):
        with pytest.raises(ValueError, match=r"prompt 'k'.*leaves nothing of '\.\.\.'"):
            check_texts(prompts, [Likelihood(), verifier])
