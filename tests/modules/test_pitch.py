"""Median pitch on synthetic voices of known pitch, and means by group."""

import math

import numpy as np
import pytest
import torch

from modules.api import Audio
from modules.pitch import GROUPS, by_pitch, median_pitch, pitch_correlation
from tests.conftest import SAMPLE_RATE, speech_like


@pytest.mark.parametrize("pitch", [85, 110, 190, 260])
def test_the_pitch_of_a_voice_is_found_between_its_pauses(pitch: float) -> None:
    """Guards against pauses, which have no pitch, in the median: here they are two thirds of the clip. The voice swings
    by 5 % around its pitch."""
    generator = torch.Generator().manual_seed(0)
    voice_T = speech_like(["one", "seven", "nine"], pitch, generator)
    noise_T = 0.02 * torch.randn(2 * voice_T.numel(), generator=generator)
    assert median_pitch(Audio(torch.cat([voice_T, noise_T]), SAMPLE_RATE)) == pytest.approx(pitch, rel=0.05)


def test_the_pitch_does_not_depend_on_the_rate_and_is_not_invented() -> None:
    """Guards against samples of another rate counted as 16 kHz, and a pitch of silence or of nothing."""
    for rate in (8000, 24_000):
        tone_T = 0.5 * torch.sin(2 * torch.pi * 150 * torch.arange(rate) / rate)
        assert median_pitch(Audio(tone_T, rate)) == pytest.approx(150, rel=0.01)
    for samples_T in (torch.zeros(SAMPLE_RATE), torch.rand(100), torch.full((SAMPLE_RATE,), math.nan)):
        assert math.isnan(median_pitch(Audio(samples_T, SAMPLE_RATE)))
    assert math.isnan(median_pitch(None))


def test_scores_are_averaged_by_group() -> None:
    """Guards against a group that gets its neighbour's scores, or counts what has no score; the reference is a loop."""
    pitches = [100, 139.9, 140, 199, 200, 300, math.nan, 120]
    scores = [1.0, 2.0, 3.0, 4.0, 4.5, 2.5, 5.0, math.nan]
    assert [(one.group.name, one.num, one.mean) for one in by_pitch(pitches, scores)] == [
        ("low", 2, 1.5), ("middle", 2, 3.5), ("high", 2, 3.5)
    ]  # fmt: skip
    assert [one.group.name for one in by_pitch([90.0], [3.0])] == ["low"]
    assert GROUPS[0].label == "low, below 140 Hz" and GROUPS[-1].label == "high, from 200 Hz"
    used = np.array(pitches[:6]), np.array(scores[:6])
    centred = [one - one.mean() for one in used]
    expected = (centred[0] * centred[1]).sum() / math.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    assert pitch_correlation(pitches, scores) == pytest.approx(expected)
    assert math.isnan(pitch_correlation([100, 200], [1, 2])) and math.isnan(pitch_correlation([100] * 3, [1, 2, 3]))
