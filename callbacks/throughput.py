"""Throughput: training speed of the language model, model FLOPs utilisation, and peak memory.

Shapes: R rows of L tokens.
"""

import logging
import math
import resource
import sys
import time
from typing import Any

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from modules.batches import TokenBatch

logger = logging.getLogger(__name__)

GIGA = 1e9
HOPPER_SXM = ("H100 80GB HBM3", "H200")  # Lightning lists the first under another name, the second with sparsity
HOPPER_SXM_HALF_FLOPS = 989e12
NO_LOSS = -100  # the label of a token without a target


class Throughput(Callback):
    """Logs every `log_every_n_steps`, over the steps since the last time:

    - `train/useful_tokens_per_second`: tokens of documents; `train/padded_tokens_per_second`: including padding.
    - `train/mfu`: model FLOPs (`module.training_flops`) over the device's peak; recomputed activations do not count.
      Not logged if the device's peak is unknown.
    - `train/peak_memory_gb`: peak of the device's allocated memory since the start; on a CPU, of the resident set.

    Tokens are those of all ranks, assuming that each has as many as this one. The time excludes validation and the
    first step of a run (compilation); it includes checkpoints and loading.

    The module provides `training_flops(num_tokens, num_documents, num_targets)`.

    Args:
        peak_flops: Peak of a device, in the precision of the run; by default from the name of the GPU. With adapters
            FLOPs are counted as if all weights were trained: up to half too much.
    """

    def __init__(self, peak_flops: float | None = None) -> None:
        if peak_flops is not None and peak_flops <= 0:
            raise ValueError(f"Expected `peak_flops` to be above 0, but got {peak_flops}.")
        self.peak_flops = peak_flops
        self._peak = math.nan
        self._began: float | None = None
        self._paused = 0.0
        self._counts: Tensor | None = None
        self._num_padded = 0
        self._last_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began, self._counts, self._last_step = None, None, trainer.global_step
        known = self.peak_flops or _known_peak(pl_module.device, str(trainer.precision))
        if known is None:
            logger.info("The peak of this device is unknown: `train/mfu` needs `peak_flops`.")
        self._peak = known or math.nan

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused -= time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused += time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: TokenBatch, batch_idx: int
    ) -> None:
        if self._began is None:
            self._last_step = trainer.global_step
            self._begin()
            return
        counts = token_counts(batch)
        self._counts = counts if self._counts is None else self._counts + counts
        self._num_padded += batch.tokens_RL.numel()
        is_new_step = trainer.global_step > self._last_step
        self._last_step = trainer.global_step
        every = trainer.log_every_n_steps
        if is_new_step and every and trainer.loggers and not trainer.global_step % every:
            self._log(trainer, pl_module)
            self._begin()

    def _begin(self) -> None:
        self._began, self._paused, self._counts, self._num_padded = time.perf_counter(), 0.0, None, 0

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        num_tokens, num_documents, num_targets = self._counts.tolist()  # synchronises with the device
        seconds = time.perf_counter() - self._began - self._paused
        values = {
            "train/useful_tokens_per_second": num_tokens * trainer.world_size / seconds,
            "train/padded_tokens_per_second": self._num_padded * trainer.world_size / seconds,
            "train/peak_memory_gb": peak_memory(pl_module.device) / GIGA,
        }
        if num_documents and not math.isnan(self._peak):
            flops = pl_module.training_flops(num_tokens, num_documents, num_targets)
            values["train/mfu"] = flops / seconds / self._peak
        for one in trainer.loggers:
            one.log_metrics(values, step=trainer.global_step - 1)  # as Lightning numbers the metrics of this step


def token_counts(batch: TokenBatch) -> Tensor:
    """(3,) int64 on the batch's device: tokens of documents, documents, tokens that carry a loss."""
    is_useful_RL = batch.documents_RL >= 0
    is_first_RL = is_useful_RL & (batch.positions_RL == 0)
    return torch.stack([is_useful_RL.sum(), is_first_RL.sum(), (batch.labels_RL != NO_LOSS).sum()])


def peak_memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _known_peak(device: torch.device, precision: str) -> float | None:
    """FLOP/s without sparsity: Hopper from NVIDIA's data sheets, others from Lightning's table; None if unknown."""
    if device.type == "cuda" and "16" in precision:
        chip = torch.cuda.get_device_name(device)
        if any(name in chip for name in HOPPER_SXM):
            return HOPPER_SXM_HALF_FLOPS
    dtype = torch.bfloat16 if "bf16" in precision else torch.float16 if "16" in precision else torch.float32
    return get_available_flops(device, dtype)
