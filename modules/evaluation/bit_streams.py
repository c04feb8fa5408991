"""What goes into a Resynthesiser and what its stream is: samples at a codec's rate, a compressed recording, its layout.

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
class CodeLayout:
    """`frame_rate` frames a second, each of `num_codebooks` codes in [0, codebook_size)."""

    codebook_size: int
    num_codebooks: int
    frame_rate: float

    @property
    def tokens_per_second(self) -> float:
        return self.num_codebooks * self.frame_rate


@dataclass(frozen=True)
class Compressed:
    """A recording as a codec stores it: `payload` is the codec's own, `num_bits` what it takes.

    `num_samples` at `sample_rate` went in. `codes_QS` (int64, on the CPU) where the payload is codes.
    """

    payload: Any
    num_bits: float
    num_samples: int
    sample_rate: int
    codes_QS: Tensor | None = None


def audio_like(compressed: Compressed, samples_T: np.ndarray, sample_rate: int) -> Audio:
    """The samples at the rate and of the length of what was compressed, cut or padded at the end."""
    samples_T = resampled(samples_T, sample_rate, compressed.sample_rate)[: compressed.num_samples]
    samples_T = np.pad(samples_T, (0, compressed.num_samples - len(samples_T)))
    return Audio(torch.from_numpy(np.ascontiguousarray(samples_T, dtype=np.float32)), compressed.sample_rate)
