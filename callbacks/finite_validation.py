"""FiniteValidation: stops a run with an error after several validations in a row that are not finite."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn


class FiniteValidation(Callback):
    """Counts consecutive validations in which a monitored metric is NaN or infinite.

    One may be caused by a single batch, several indicate a broken model. Lightning's EarlyStopping(check_finite=True)
    stops a run at the first, as if it had finished. The count is stored in the checkpoint.

    Args:
        max_in_a_row: Number in a row that stops the run.
        monitors: Names of metrics; those that a run does not log are ignored.

    Raises:
        RuntimeError: At the end of the validation that reaches the limit; on all ranks.
    """

    def __init__(self, max_in_a_row: int = 3, monitors: Sequence[str] = ("val/loss", "val/mel")) -> None:
        if max_in_a_row < 1:
            raise ValueError(f"Expected `max_in_a_row` to be at least 1, but got {max_in_a_row}.")
        self.max_in_a_row, self.monitors = max_in_a_row, tuple(monitors)
        self.num_in_a_row = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        found = {name: trainer.callback_metrics[name] for name in self.monitors if name in trainer.callback_metrics}
        broken = {name: float(value) for name, value in found.items() if not torch.isfinite(value)}
        is_broken = trainer.strategy.reduce_boolean_decision(bool(broken), all=False)
        self.num_in_a_row = self.num_in_a_row + 1 if is_broken else 0
        if self.num_in_a_row >= self.max_in_a_row:
            raise RuntimeError(
                f"Expected finite validation metrics, but got {broken or 'NaN on another rank'} at step "
                f"{trainer.global_step}, in {self.num_in_a_row} validations in a row. Resume from a checkpoint before "
                "the first of them, with a lower learning rate or without the data that breaks it."
            )

    def state_dict(self) -> dict[str, Any]:
        return {"num_in_a_row": self.num_in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.num_in_a_row = state_dict["num_in_a_row"]
