"""Facts of the model under test for a sweep's page, from the module, its checkpoint and the codec."""

import logging
from pathlib import Path

import torch
from lightning.pytorch import LightningModule

from modules.api import Codec
from modules.report.training_record import TrainedFacts
from modules.stages import UNREADABLE

logger = logging.getLogger(__name__)


def trained_facts(pl_module: LightningModule, codec: Codec, checkpoint: str | Path | None) -> TrainedFacts:
    """`checkpoint`: the file that the run loaded; updates and hours are unknown without one."""
    content = {}
    if checkpoint and Path(checkpoint).is_file():
        # The run has loaded the same file, and as freely. Weights are memory-mapped, not read.
        try:
            content = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=False)
        except UNREADABLE as error:  # as a file in torch's format before 1.6
            logger.warning("The page has no facts of %s: %s", checkpoint, error)
    hours = (content.get("training_facts") or {}).get("license_hours") or {}
    return TrainedFacts(
        num_parameters=sum(weight.numel() for weight in pl_module.parameters()),
        num_updates=int(content.get("global_step", 0)),
        hours=float(sum(hours.values())),
        frame_rate=codec.facts.frame_rate,
        codebook_size=codec.facts.codebook_size,
        sample_rate=codec.facts.sample_rate,
    )
