"""Recordings of unequal lengths, their batches, and the validation result on them.

Shapes: B batch, T samples.
"""

import lightning as L
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from modules.batches import AudioBatch, pad_rows


def recordings() -> list[torch.Tensor]:
    """16 recordings of unequal lengths and levels."""
    generator = torch.Generator().manual_seed(0)
    return [0.02 * (16 - place) * torch.randn(200 + 230 * place, generator=generator) for place in range(16)]


def validated(trainer: L.Trainer, module: L.LightningModule, batches: list[AudioBatch]) -> float:
    """Return `val/mel`."""
    trainer.validate(module, DataLoader(batches, batch_size=None), verbose=False)
    return float(trainer.callback_metrics["val/mel"])


def batch_of(rows: list[torch.Tensor], length: int = 0) -> AudioBatch:
    """Batch padded to the longest, or to `length`."""
    audio_BT, num_samples_B = pad_rows(rows)
    audio_BT = F.pad(audio_BT, (0, max(0, length - audio_BT.shape[1])))
    return AudioBatch(audio_BT, num_samples_B, [""] * len(rows), [{}] * len(rows))
