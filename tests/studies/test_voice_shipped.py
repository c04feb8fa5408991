"""studies/voice/shipped: word errors of a small run by hand, and the page shows the json's numbers."""

import csv
import json

import pytest

from studies.voice.shipped import PAGE, RESULTS, measured, render

# sentence, text, ended, judge's score, alignment, likelihood
CANDIDATES = [
    ("a", "Four words are here.", 1, 1.0, -1.0, -5.0),
    ("a", "Four words are here.", 1, 0.5, -2.0, -4.0),
    ("b", "It's two.", 1, 0.5, -1.0, -3.0),
    ("b", "It's two.", 0, 1.0, -0.5, -2.0),
]


def test_rates_are_errors_over_the_words_that_the_judge_compares(tmp_path):
    """Guards against words counted otherwise than the judge's score, and a sample that never ended but is right."""
    names = ["prompt_key", "text", "stopped", "whisper", "alignment", "likelihood"]
    with (tmp_path / "candidates.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([names, *CANDIDATES])
    (tmp_path / "summary.json").write_text(json.dumps({"description": {}}))
    found = measured(tmp_path)
    # 4 words, and "it is two"; the sample that never ended has 3 errors.
    assert found["wer"]["N = 1"]["value"] == pytest.approx(((0 + 2) / 2 + (1.5 + 3) / 2) / 7)
    assert found["wer"]["best of 2 by likelihood"]["value"] == pytest.approx((2 + 1.5) / 7)
    assert found["num_never_ended"] == 1


def test_the_page_is_that_of_the_results():
    page = PAGE.read_text(encoding="utf-8")
    assert render(json.loads(RESULTS.read_text(encoding="utf-8")), page) == page
