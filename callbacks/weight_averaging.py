"""EMAWeightAveraging: Lightning's moving average of the weights, used in all evaluations by other callbacks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch.callbacks
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn


class EMAWeightAveraging(lightning.pytorch.callbacks.EMAWeightAveraging):
    """Keeps an exponential moving average of the weights, which checkpoints store as the model.

    Differs from Lightning's class of the same name (2.6), whose checkpoints it can resume:

    - The module has the averaged weights until validation ends, regardless of the order of callbacks. Lightning's class
      restores the trained weights in `on_validation_epoch_end`: callbacks after it then evaluate those.
    - The trained weights are kept after training. Lightning's class overwrites them in `on_train_end`: a checkpoint
      saved there, such as RunCheckpoint's, would resume from the average.

    Raises:
        ValueError: Under ModelParallelStrategy, because sharded weights cannot be copied.
    """

    _holds_average = False  # the module has the average, and the averaged model the trained weights

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            if pl_module.device_mesh is not None:
                raise ValueError(
                    "Expected whole weights to average, but got a sharded model: train with DDP, or without an average."
                )
            self._holds_average = False
            # First, so that all others see the average after the current step's update.
            trainer.callbacks = [self, *(one for one in trainer.callbacks if one is not self)]
        super().setup(trainer, pl_module, stage)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._hold_average(pl_module, True)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pass  # others evaluate in this hook

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._hold_average(pl_module, False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._hold_average(pl_module, True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._holds_average:
            module, averaged = checkpoint["current_model_state"], checkpoint["state_dict"]
            checkpoint["state_dict"], checkpoint["current_model_state"] = module, averaged

    def _hold_average(self, pl_module: LightningModule, wanted: bool) -> None:
        if self._holds_average != wanted:
            self._swap_models(pl_module)
            self._holds_average = wanted


@contextmanager
def averaged_weights(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """Context in which the module has its averaged weights, if the trainer has an EMAWeightAveraging."""
    averaging = next((one for one in trainer.callbacks if isinstance(one, EMAWeightAveraging)), None)
    if averaging is None or averaging._average_model is None:  # only a fit averages
        yield
        return
    before = averaging._holds_average
    averaging._hold_average(pl_module, True)
    try:
        yield
    finally:
        averaging._hold_average(pl_module, before)
