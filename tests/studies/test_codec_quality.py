"""studies/codec_quality/collect.py: paired differences against plain sums."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "studies/codec_quality/collect.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("collect_codec_quality", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runs(seed: int, better: float) -> list[dict[str, dict[str, float]]]:
    """Two seeds of 300 utterances with unequal numbers of words, one in ten much harder than the rest."""
    generator = np.random.default_rng(seed)
    words = np.random.default_rng(9).integers(3, 20, 300)
    return [
        {
            f"key{number}": {
                "num_words": float(words[number]),
                "num_errors": float(generator.integers(0, 3) + (number % 10 == 0) * 8),
                "stoi": 0.8 - 0.3 * (number % 10 == 0) + better + generator.normal() * 0.01,
            }
            for number in range(300)
        }
        for _ in range(2)
    ]


def test_a_paired_difference_is_that_of_the_sums_with_a_paired_interval(script):
    """Guards against a mean of word error rates, and against an interval that ignores that recordings are shared."""
    ours, base = runs(0, 0.02), runs(1, 0.0)
    found = script.paired_difference(ours, base, "wer")
    rates = [sum(u["num_errors"] for run in some for u in run.values()) for some in (ours, base)]
    num_words = sum(u["num_words"] for u in base[0].values())
    assert found["value"] == pytest.approx((rates[0] - rates[1]) / 2 / num_words)
    found = script.paired_difference(ours, base, "stoi")
    means = [np.mean([u["stoi"] for run in some for u in run.values()]) for some in (ours, base)]
    assert found["value"] == pytest.approx(means[0] - means[1])
    assert found["num"] == 300
    ours[1]["key3"]["stoi"] = float("nan")
    assert script.paired_difference(ours, base, "stoi")["num"] == 299
    assert 0.01 < found["low"] < found["value"] < found["high"] < 0.03  # unpaired: .006 to .034
