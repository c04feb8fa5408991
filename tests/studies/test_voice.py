"""studies/voice: word errors of a small run by hand, and the page's numbers are those of the json."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from studies.voice.collect import HERE, chosen, codec_errors, gains, render, spoken_errors, systems

WORDS = {"a": 4, "b": 10}
CODEC = [("original", "a", 0, 4), ("original", "b", 2, 10), ("codec", "a", 1, 4), ("codec", "b", 30, 10)]
# sentence, ended, judge's score, alignment, likelihood
CANDIDATES = [
    ("a", 1, 1.0, -1.0, -5.0),
    ("a", 1, 0.5, -2.0, -4.0),
    ("b", 1, 0.4, -1.0, -3.0),
    ("b", 0, 1.0, -0.5, -2.0),
]


def write(path: Path, names: list[str], rows: list[tuple]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([names, *rows])
    return path


@pytest.fixture
def found(tmp_path):
    write(tmp_path / "codec_utterances.csv", ["system", "key", "num_errors", "num_words"], CODEC)
    names = ["prompt_key", "stopped", "whisper", "alignment", "likelihood"]
    words, errors = codec_errors(tmp_path)
    assert words == WORDS
    of_sweep, counts = spoken_errors(write(tmp_path / "candidates.csv", names, CANDIDATES), words)
    assert counts == {"num_candidates": 2, "num_never_ended": 1, "num_unjudged": 0}
    shares = gains(words, errors | of_sweep)
    return systems(words, errors | of_sweep), shares


def test_rates_are_errors_over_words(found):
    """Guards against means of rates, errors above the number of words, and an excess over other sentences."""
    found, _ = found
    assert found["teacher"]["wer"]["value"] == pytest.approx(2 / 14)
    assert found["codec"]["wer"]["value"] == pytest.approx((1 + 10) / 14)
    assert found["codec"]["excess"]["value"] == pytest.approx((1 + 8) / 14)
    assert found["codec"]["wer_clean"]["value"] == pytest.approx(1 / 4)
    assert found["N = 1"]["wer"]["value"] == pytest.approx((0.5 * (0 + 2) + 0.5 * (6 + 10)) / 14)


def test_selected_candidates_are_the_best_that_ended(found):
    """Guards against a candidate that never ended as the best, and an oracle that does not choose by the judge."""
    found, shares = found
    assert found["best of 2 by alignment"]["wer"]["value"] == pytest.approx(6 / 14)
    assert found["best of 2 by likelihood"]["wer"]["value"] == pytest.approx((2 + 6) / 14)
    assert found["oracle"]["wer"]["value"] == pytest.approx(6 / 14)
    assert "best of 2 by text probability" not in found, "the run has no such selector"
    assert shares["best of 2 by alignment"]["value"] == pytest.approx(1.0)
    assert shares["best of 2 by likelihood"]["value"] == pytest.approx((9 - 8) / (9 - 6))


def test_ties_share_and_unscored_candidates_rank_last():
    assert chosen(np.array([1.0, 1.0, np.nan]), np.array([0.0, 4.0, 9.0])) == 2.0


def test_the_page_is_that_of_the_results():
    """Guards against a page edited by hand, and numbers without a run."""
    page = (HERE / "README.md").read_text(encoding="utf-8")
    assert render(json.loads((HERE / "results.json").read_text(encoding="utf-8")), page) == page
