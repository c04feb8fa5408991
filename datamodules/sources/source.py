"""What a corpus layout yields: the Source protocol, its two records, and what makes audio unusable."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import torch

from modules.api import Audio

MAX_PEAK = 2.0  # above this the samples are no floats in [-1, 1] but integers stored as floats
SAMPLE_RATES = (1_000, 1_000_000)  # Hz; outside these bounds the rate is a mistake


@dataclass(frozen=True)
class Recording:
    """One labelled recording.

    `key` holds no dot, slash or space (WebDataset splits names at the first dot). `split` is empty where the hash of
    the key decides; a source that must keep texts apart (digits) names it. `prefix` and `_` stand before the key where
    a preparation has several sources.
    """

    key: str
    audio: Audio
    text: str
    speaker: str
    language: str
    source: str
    license: str
    split: str = ""
    prefix: str = ""


@dataclass(frozen=True)
class Skipped:
    """A file that could not be used, and why. Counted and listed in the index's report.

    What varies from file to file stands behind a colon in `reason`: what precedes it is counted.
    """

    key: str
    reason: str


class Source(Protocol):
    """One corpus layout. `recordings` never raises for a single bad file: it yields Skipped."""

    @property
    def num_recordings(self) -> int:
        """How many items `recordings` will yield, for the progress bar."""
        ...

    def recordings(self) -> Iterator[Recording | Skipped]: ...

    def credits(self) -> str:
        """Licence and credits, written beside the shards."""
        ...


def unusable_audio(audio: Any) -> str:
    """Why `audio` is no mono waveform of finite floats in [-1, 1] at a possible rate; "" where it is one."""
    if not isinstance(audio, Audio):
        return f"no Audio: {type(audio).__name__}"
    samples, rate = audio.samples_T, audio.sample_rate
    if not isinstance(rate, Real) or not math.isfinite(rate) or int(rate) != rate:
        return f"sample rate is no whole number: {rate!r}"
    lowest, highest = SAMPLE_RATES
    if not lowest <= rate <= highest:
        return f"sample rate outside {lowest} to {highest} Hz: {rate}"
    if not isinstance(samples, torch.Tensor):
        return f"samples are no tensor: {type(samples).__name__}"
    if samples.dim() != 1:
        return f"samples are not mono, of shape (T,): {tuple(samples.shape)}"
    if not samples.is_floating_point():
        return f"samples are no floats in [-1, 1]: {samples.dtype}"
    if not samples.numel():
        return "no audio samples"
    if not torch.isfinite(samples).all():
        return "audio holds values that are not finite"
    peak = samples.abs().max().item()
    return f"samples are no floats in [-1, 1]: peaks at {peak:.0f}" if peak > MAX_PEAK else ""
