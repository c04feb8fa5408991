"""Types of a Resynthesiser's stream: samples at a codec's rate, a compressed recording.

Shapes: T audio samples, Q codebooks, S code frames.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.api import Audio
from modules.audio import resampled


@dataclass(frozen=True)
class Compressed:
    """A compressed recording: `payload` in the codec's own format, `num_bits` its size.

    `num_samples` at `sample_rate` is the length of the input. `codes_QS` (int64, on the CPU) if the payload is codes.
    """

    payload: Any
    num_bits: float
    num_samples: int
    sample_rate: int
    codes_QS: Tensor | None = None


def codec_input(audio: Audio, sample_rate: int) -> np.ndarray:
    """(T,) float32 in [-1, 1] at `sample_rate` Hz. Raises ValueError for no samples."""
    if audio.samples_T.numel() == 0:
        raise ValueError("Expected `audio` to hold samples, but got none.")
    return resampled(Audio(audio.samples_T.clamp(-1, 1), audio.sample_rate), sample_rate).clip(-1, 1)


def audio_like(compressed: Compressed, samples_T: np.ndarray, sample_rate: int) -> Audio:
    """The samples at the rate and length of the compressed recording, cut or padded at the end."""
    if sample_rate != compressed.sample_rate:
        samples_T = resampled(Audio(torch.from_numpy(samples_T), sample_rate), compressed.sample_rate).clip(-1, 1)
    samples_T = samples_T[: compressed.num_samples]
    samples_T = np.pad(samples_T, (0, compressed.num_samples - len(samples_T)))
    return Audio(torch.from_numpy(np.ascontiguousarray(samples_T, dtype=np.float32)), compressed.sample_rate)
