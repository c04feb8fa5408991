"""Facts of the model under test for a sweep's page, from the module, its checkpoint and the codec."""

from pathlib import Path

import torch
from lightning.pytorch import LightningModule

from modules.api import Codec
from modules.report.training_record import TrainedFacts


def trained_facts(pl_module: LightningModule, codec: Codec, checkpoint: str | Path | None) -> TrainedFacts:
    """`checkpoint`: the file that the run loaded; updates and hours are unknown without one."""
    content = {}
    if checkpoint and Path(checkpoint).is_file():
        # The run has loaded the same file, and as freely. Weights are memory-mapped, not read.
        content = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=False)
    return TrainedFacts(
        num_parameters=sum(weight.numel() for weight in pl_module.parameters()),
        num_updates=int(content.get("global_step", 0)),
        hours=float(sum(content.get("training_facts", {}).get("license_hours", {}).values())),
        frame_rate=codec.facts.frame_rate,
        codebook_size=codec.facts.codebook_size,
        sample_rate=codec.facts.sample_rate,
    )
