"""Checkpoints of a run, the one after its last update included."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which also saves the end.

    With `every_n_train_steps` Lightning saves at multiples of it alone: of 1,400 updates it would keep 1,200 at 400.
    """

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        if trainer.global_step == trainer.max_steps:
            self._save_now(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that ends by its epochs, or early."""
        self._save_now(trainer)

    def _save_now(self, trainer: L.Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):  # as where this step was saved before
            found = self._monitor_candidates(trainer)
            self._save_topk_checkpoint(trainer, found)
            self._save_last_checkpoint(trainer, found)
