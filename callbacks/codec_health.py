"""CodecHealth: codebook usage of the codec on held-out audio.

Shapes: B items, S code frames.
"""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.media import log_figure
from modules.metrics import CodeUsage
from modules.report.figures import frequency_figure


class CodecHealth(Callback):
    """Logs `val/code_usage`, `val/code_perplexity` and a figure of the codes' frequencies at the end of a validation.

    The module's `validation_step` must return a dict with `codes_BS` (int64) and `num_codes_B`.

    Args:
        codebook_size: Number of entries of the codebook.
    """

    def __init__(self, codebook_size: int) -> None:
        self.metric = CodeUsage(codebook_size)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.metric.to(pl_module.device)
        self.metric.reset()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Tensor], batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if not isinstance(outputs, dict) or not {"codes_BS", "num_codes_B"} <= outputs.keys():
            got = sorted(outputs) if isinstance(outputs, dict) else type(outputs).__name__
            raise ValueError(
                f"Expected `validation_step` to return a dict with codes_BS and num_codes_B, but got {got}."
            )
        self.metric.update(outputs["codes_BS"], outputs["num_codes_B"])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        statistics = self.metric.compute()  # sums the counts of all ranks, so every rank logs the same
        pl_module.log("val/code_usage", statistics.usage.float(), rank_zero_only=False)
        pl_module.log("val/code_perplexity", statistics.perplexity.float(), rank_zero_only=False)
        if trainer.is_global_zero:
            usage, perplexity = float(statistics.usage), float(statistics.perplexity)
            title = f"{usage:.1%} of {self.metric.codebook_size} codes used, perplexity {perplexity:.0f}"
            figure = frequency_figure(statistics.counts_K.cpu().numpy(), title)
            log_figure(trainer.loggers, "val/code_frequencies", figure, trainer.global_step)
