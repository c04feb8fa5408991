"""studies/voice/alignment.py: errors counted by hand, and the json against what the docs quote."""

import json

import pytest
import torch

from datamodules.sources.source import Recording
from modules.api import Audio
from studies.voice.alignment import HERE, by_characters, errors_ms, statistics
from tests.conftest import REPOSITORY


def test_errors_are_those_of_inner_ends() -> None:
    """Guards against last ends, which are exact by definition, that make the errors look small."""
    found, exact = [("a", 0.5), ("b", 0.9), ("c", 2.0)], [("a", 0.4), ("b", 0.96), ("c", 2.0)]
    errors = errors_ms(found, exact)
    assert errors == pytest.approx([100, -60])
    expected = {"word_ends": 3, "mean_ms": 60, "median_ms": 60, "p90_ms": 92, "bias_ms": 20}
    assert statistics([*errors, 20]) == {**expected, "within_50_ms": 0.3333}


def test_shares_by_characters() -> None:
    recording = Recording("a", Audio(torch.zeros(16_000), 16_000), "one three", "", "en", "", "")
    assert by_characters(recording) == [("one", 0.4), ("three", 1.0)]


def test_the_docs_quote_the_results() -> None:
    """Guards against numbers of another run."""
    voices = json.loads((HERE / "alignment.json").read_text())["voices"].values()
    num = sum(voice["aligned"]["word_ends"] for voice in voices)

    def mean(name: str) -> float:
        return sum(voice["aligned"][name] * voice["aligned"]["word_ends"] for voice in voices) / num

    text = " ".join((REPOSITORY / "docs/corpora.md").read_text().split())
    assert f"{mean('mean_ms'):.0f} ms on average, {mean('median_ms'):.0f} ms in the median" in text
    assert f"{mean('p90_ms'):.0f} ms in the 90th percentile; {mean('within_50_ms'):.1%}".replace("%", " %") in text
    assert sum(voice["refused"] for voice in voices) == 0 and "none was refused" in text
