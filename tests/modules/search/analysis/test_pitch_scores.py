"""Opinion scores of a sweep by pitch: rows against a plain count, and the judges that have them."""

import numpy as np
import pytest
import torch

from modules.api import Audio, Prompt
from modules.search.analysis.expected_best_of_n import CurvePoint
from modules.search.analysis.pitch_scores import pitch_scores
from tests.conftest import SAMPLE_RATE


def tone(pitch: float) -> Audio:
    return Audio(0.5 * torch.sin(2 * torch.pi * pitch * torch.arange(SAMPLE_RATE) / SAMPLE_RATE), SAMPLE_RATE)


def point(judge: str, scores: list[float], n: int = 1) -> CurvePoint:
    about = ("best_of_n", "random", judge, n, 0, 0, 0, len(scores), 0, 0, 0, "set")
    return CurvePoint(*about, scores_P=np.array(scores))


def test_only_opinion_scores_have_rows_by_pitch() -> None:
    """Guards against a similarity or an error rate among opinion scores, and scores of other prompts in a group."""
    prompts = [Prompt(str(pitch), "a", reference=tone(pitch)) for pitch in (100, 250, 120)] + [Prompt("none", "a")]
    points = [
        point("mos", [3.0, 4.0, 2.0, 5.0]), point("mos", [3.5, 4.5, 2.5, 5.0], n=2),
        point("similarity", [0.1, 0.2, 0.3, 0.4]),
    ]  # fmt: skip
    rows = pitch_scores(points, {"set": prompts}, ["mos"])
    assert [(row.judge, row.n, row.group, row.num_prompts, row.score) for row in rows] == [
        ("mos", 1, "low", 2, 2.5), ("mos", 1, "high", 1, 4.0), ("mos", 2, "low", 2, 3.0), ("mos", 2, "high", 1, 4.5)
    ]  # fmt: skip
    assert rows[0].correlation == pytest.approx(np.corrcoef([100, 250, 120], [3, 4, 2])[0, 1], abs=0.02)
    assert pitch_scores(points, {"set": [Prompt("none", "a")] * 4}, ["mos"]) == []
