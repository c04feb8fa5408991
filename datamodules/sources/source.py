"""Interface of a corpus layout: the Source protocol, its two records, and the check for unusable audio."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol

import torch

from modules.api import Audio

MAX_PEAK = 2.0  # above this the samples are integers stored as floats, not floats in [-1, 1]
SAMPLE_RATES = (4_000, 192_000)  # Hz; rates outside these bounds are errors


@dataclass(frozen=True)
class Recording:
    """One labelled recording.

    `key` has no dot, slash or space (WebDataset splits names at the first dot). `split` is empty if the hash of the key
    decides; a source that must keep texts apart (digits) sets it. `prefix` and `_` precede the key if a preparation has
    several sources. `more` are further fields of the json, `scores` published numbers by name, higher is better.
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
    more: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Skipped:
    """An unusable file, and why. Counted and listed in the index's report.

    Details that vary from file to file follow a colon in `reason`: reasons are counted by the part before it.
    """

    key: str
    reason: str


class Source(Protocol):
    """One corpus layout. `recordings` never raises for a single bad file: it yields Skipped."""

    @property
    def num_recordings(self) -> int:
        """Number of items that `recordings` will yield, for the progress bar."""
        ...

    def recordings(self) -> Iterator[Recording | Skipped]: ...

    def credits(self) -> str:
        """Licence and credits, stored with the shards."""
        ...


def peak_of(audio: Any) -> float | str:
    """Return the largest absolute sample of `audio`; or why it is not a mono waveform of finite floats in [-1, 1] at a
    possible rate."""
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
    least, most = samples.detach().aminmax()  # both are NaN if any sample is
    peak = max(-least.item(), most.item())
    if not math.isfinite(peak):
        return "audio holds values that are not finite"
    return f"samples are no floats in [-1, 1]: peaks at {peak:.0f}" if peak > MAX_PEAK else peak


def unusable_audio(audio: Any) -> str:
    """Return why audio cannot be used (peak_of); "" if it can."""
    peak = peak_of(audio)
    return peak if isinstance(peak, str) else ""
