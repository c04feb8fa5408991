"""Normalisers: what they make of texts of many scripts, and the record that tells one set of rules from another."""

import json
from pathlib import Path

import pytest

from modules.verifiers import normalise
from modules.verifiers.normalise import (
    BasicWords,
    Digits,
    EnglishWords,
    LetterWords,
    Normaliser,
    SeedTTSChinese,
    SeedTTSEnglish,
)

EVERY_NORMALISER = (EnglishWords(), BasicWords(), SeedTTSEnglish(), SeedTTSChinese(), LetterWords(), Digits())


def test_identities_differ_and_hold_no_module() -> None:
    """Guards against two normalisers under one record, records that JSON cannot hold, and module paths in keys."""
    records = [json.dumps(one.identity) for one in EVERY_NORMALISER]
    assert len(set(records)) == len(records)
    assert not any("modules." in record for record in records)


def test_identity_follows_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against scores read back under another table: the record follows the content, not the file's name."""

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
    """Guards against scores read back after a change of rules: the published punctuation is recorded."""
    normalisers: list[Normaliser] = [SeedTTSEnglish(), SeedTTSChinese()]
    records = [one.identity for one in normalisers]
    monkeypatch.setattr(normalise, "PUBLISHED_PUNCTUATION", normalise.re.compile("[!]"))
    assert all(one.identity != record for one, record in zip(normalisers, records, strict=True))
