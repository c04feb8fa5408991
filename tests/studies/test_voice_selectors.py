"""studies/voice/selectors: word errors of a small run by hand, and the page shows the json's numbers."""

import csv
import json

import pytest

from studies.voice.selectors import MORE, PAGE, RESULTS, SELECTORS, measured, render

# sentence, text, ended, judge's score, text probability, the same of clips as they are, Moonshine's transcript,
# alignment, likelihood
CANDIDATES = [
    ("a", "Four words are here.", 1, 1.0, -0.1, -0.3, 1.0, -1.0, -5.0),
    ("a", "Four words are here.", 1, 0.5, -0.2, -0.2, 1.0, -2.0, -4.0),
]


def test_every_selector_has_its_row(tmp_path):
    """Guards against a column that another selector's name hides, and ties that are the first."""
    names = ["prompt_key", "text", "stopped", "whisper", "text_probability", "text_probability_as_is", "moonshine"]
    names += ["alignment", "likelihood"]
    with (tmp_path / "candidates.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([names, *CANDIDATES])
    (tmp_path / "summary.json").write_text(json.dumps({"description": {}}))
    found = {name: rate["value"] for name, rate in measured(tmp_path, MORE | SELECTORS)["wer"].items()}
    assert found == pytest.approx(
        {
            "N = 1": 1 / 4,
            "best of 2 by text probability": 0,
            "best of 2 by text probability, clips as they are": 2 / 4,
            "best of 2 by Moonshine's transcript": 1 / 4,
            "best of 2 by alignment": 0,
            "best of 2 by likelihood": 2 / 4,
            "oracle": 0,
        }
    )


def test_the_page_is_that_of_the_results():
    page = PAGE.read_text(encoding="utf-8")
    assert render(json.loads(RESULTS.read_text(encoding="utf-8")), page) == page
