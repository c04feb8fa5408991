"""Silence and stray noise at the ends of an utterance. T audio samples."""

from dataclasses import dataclass

import numpy as np
import torch

from modules.api import Audio

FRAME_SECONDS = 0.01
BELOW_SPEECH_DB = 40.0  # below the loudest tenth of the frames: silence
SILENCE_DB = -55.0  # below full scale: silence in any recording
MAX_NOISE_SECONDS = 0.06  # a shorter sound that ...
MIN_GAP_SECONDS = 0.15  # ... this much silence separates from the speech is noise: a click, a breath
MARGIN_SECONDS = 0.06  # kept around the speech: soft consonants lie below the threshold


@dataclass(frozen=True)
class Trimmed:
    """The audio that is left, and the seconds removed before and after it."""

    audio: Audio
    before: float
    after: float


def is_silent(audio: Audio) -> bool:
    """Whether no 10 ms of the audio reach -55 dB of full scale."""
    return not len(_active(audio))


def trimmed(audio: Audio) -> Trimmed:
    """The audio from its first to its last sound, with 60 ms of margin; sounds of less than 60 ms that stand apart at
    the ends are removed too. Silent audio stays whole."""
    sounds = _sounds(audio)
    if not sounds:
        return Trimmed(audio, 0.0, 0.0)
    while len(sounds) > 1 and _stands_apart(sounds[0], sounds[1], sounds[0]):
        sounds.pop(0)
    while len(sounds) > 1 and _stands_apart(sounds[-2], sounds[-1], sounds[-1]):
        sounds.pop()
    num_samples, rate = audio.samples_T.numel(), audio.sample_rate
    first = max(0, round((sounds[0][0] * FRAME_SECONDS - MARGIN_SECONDS) * rate))
    last = min(num_samples, round((sounds[-1][1] * FRAME_SECONDS + MARGIN_SECONDS) * rate))
    return Trimmed(Audio(audio.samples_T[first:last].clone(), rate), first / rate, (num_samples - last) / rate)


def _stands_apart(left: tuple[int, int], right: tuple[int, int], sound: tuple[int, int]) -> bool:
    gap, length = right[0] - left[1], sound[1] - sound[0]
    return gap * FRAME_SECONDS >= MIN_GAP_SECONDS and length * FRAME_SECONDS < MAX_NOISE_SECONDS


def _sounds(audio: Audio) -> list[tuple[int, int]]:
    """First frame and frame after the last of every stretch of sound."""
    active = _active(audio)
    if not len(active):
        return []
    breaks = np.flatnonzero(np.diff(active) > 1)
    return list(zip(active[[0, *(breaks + 1)]].tolist(), (active[[*breaks, -1]] + 1).tolist(), strict=True))


def _active(audio: Audio) -> np.ndarray:
    """Numbers of the frames that hold sound."""
    samples_T = audio.samples_T.detach().float().cpu()
    frame = max(1, round(FRAME_SECONDS * audio.sample_rate))
    if samples_T.numel() == 0:
        return np.zeros(0, dtype=np.int64)
    padded_T = torch.nn.functional.pad(samples_T, (0, -samples_T.numel() % frame))
    power = padded_T.view(-1, frame).double().square().mean(1).clamp(min=1e-12)
    levels = (10 * power.log10()).numpy()
    speech = np.sort(levels)[-max(1, len(levels) // 10) :].mean()
    return np.flatnonzero(levels > max(SILENCE_DB, speech - BELOW_SPEECH_DB))
