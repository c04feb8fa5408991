"""studies/voice/formats: errors of samples by hand, and the page's numbers are those of the json."""

import csv
import json

import pytest

from studies.voice.formats import PAGE, RESULTS, rates, render, sample_errors

WORDS = {"a": 4, "b": 10}
# sentence, temperature, ended, judge's score
SAMPLES = [("a", 0.1, 1, "0.5"), ("b", 0.1, 0, "1.0"), ("a", 0.3, 1, "1.0"), ("b", 0.3, 1, "")]


def written(path, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["prompt_key", "temperature", "stopped", "whisper"], *rows])
    return path


def test_a_sample_that_never_ended_has_only_errors(tmp_path):
    """Guards against runaways and unjudged samples that count as right, and temperatures that are mixed."""
    found = sample_errors(written(tmp_path / "candidates.csv", SAMPLES), WORDS)
    assert found == {"0.1": {"a": 2.0, "b": 10.0}, "0.3": {"a": 0.0, "b": 10.0}}
    one = rates(WORDS, {"teacher": {"a": 0.0, "b": 3.0}, "0.1": found["0.1"]})["0.1"]
    assert one["wer"]["value"] == pytest.approx(12 / 14)
    assert one["excess"]["value"] == pytest.approx(9 / 14)


def test_a_missing_sentence_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"2 sentences at temperature 0\.3, but got 1"):
        sample_errors(written(tmp_path / "candidates.csv", SAMPLES[:3]), WORDS)


def test_the_page_is_that_of_the_results():
    page = PAGE.read_text(encoding="utf-8")
    assert render(json.loads(RESULTS.read_text(encoding="utf-8")), page) == page
