"""Silence and stray noise at the ends of speech."""

import torch

from modules.api import Audio
from modules.speech.trimming import MARGIN_SECONDS, is_silent, trimmed

RATE = 16000


def tone(seconds: float, level: float) -> torch.Tensor:
    return level * torch.sin(torch.arange(round(seconds * RATE)) * 2 * torch.pi * 200 / RATE)


def silence(seconds: float) -> torch.Tensor:
    return torch.zeros(round(seconds * RATE))


def test_a_click_that_stands_apart_is_removed_at_both_ends() -> None:
    """Guards against the click before the first word, and against a short word or a soft consonant that is cut off."""
    click, word = tone(0.03, 0.5), tone(0.8, 0.3)
    cut = trimmed(Audio(torch.cat([click, silence(0.3), word, silence(0.3), click, silence(0.2)]), RATE))
    assert abs(cut.before - (0.33 - MARGIN_SECONDS)) < 0.011
    assert abs(cut.after - (0.53 - MARGIN_SECONDS)) < 0.011
    for kept in ([tone(0.1, 0.5), silence(0.3), word], [click, silence(0.1), word], [tone(0.1, 0.01), word]):
        cut = trimmed(Audio(torch.cat(kept), RATE))
        assert (cut.before, cut.after) == (0.0, 0.0)


def test_silence_stays_whole_and_is_known() -> None:
    quiet = Audio(torch.cat([tone(0.5, 1e-4), silence(0.5)]), RATE)
    assert is_silent(quiet)
    assert trimmed(quiet).audio.samples_T.numel() == quiet.samples_T.numel()
    assert not is_silent(Audio(tone(0.05, 0.02), RATE))
