"""StepGuard: skips and counts steps whose gradient is not finite or explodes; too many in a row stop the run."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from modules.step_logging import is_logged_step, log_step


class StepGuard(Callback):
    """Checks the norm of all gradients before each update, after they are reduced over ranks, so that all ranks agree.

    A skipped step leaves the weights and the optimizer's state unchanged; the schedule and the data advance. The counts
    are stored in the checkpoint, so that a resumed run decides like an uninterrupted one. Costs one device
    synchronisation per update. Logs `train/gradient_norm` and `train/num_skipped_steps`. The codec's discriminator
    bypasses callbacks: CodecModule skips its updates that are not finite.

    Args:
        max_skipped_in_a_row: More stop the run; the last checkpoint then has weights unaffected by skipped steps.
        max_norm_ratio: A norm larger than this multiple of the running mean of accepted ones counts as exploding. None:
            only norms that are not finite are skipped.
        num_warmup_steps: Accepted steps before norms are compared with their mean.

    Raises:
        RuntimeError: From the training loop, after too many skipped steps in a row.
    """

    def __init__(
        self, max_skipped_in_a_row: int = 10, max_norm_ratio: float | None = 20.0, num_warmup_steps: int = 100
    ) -> None:
        if max_skipped_in_a_row < 1:
            raise ValueError(f"Expected `max_skipped_in_a_row` to be at least 1, but got {max_skipped_in_a_row}.")
        if max_norm_ratio is not None and max_norm_ratio <= 1:
            raise ValueError(f"Expected `max_norm_ratio` above 1, but got {max_norm_ratio}.")
        self.max_skipped_in_a_row, self.max_norm_ratio = max_skipped_in_a_row, max_norm_ratio
        self.num_warmup_steps = num_warmup_steps
        self.mean_norm, self.num_accepted = 0.0, 0
        self.num_skipped, self.num_skipped_in_a_row = 0, 0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        norm = gradient_norm(weights)
        if self._accepts(norm):
            self.mean_norm += (norm - self.mean_norm) / min(self.num_accepted + 1, 100)
            self.num_accepted += 1
            self.num_skipped_in_a_row = 0
        else:
            for weight in weights:
                weight.grad = None  # AdamW then changes nothing, not even by weight decay
            self.num_skipped += 1
            self.num_skipped_in_a_row += 1
        if is_logged_step(trainer):
            log_step(trainer, {"train/gradient_norm": norm, "train/num_skipped_steps": float(self.num_skipped)})
        if self.num_skipped_in_a_row > self.max_skipped_in_a_row:
            raise RuntimeError(
                f"Expected a finite gradient that does not explode, but got {self.num_skipped_in_a_row} others in a "
                f"row until step {trainer.global_step} (the last norm: {norm:g}, the mean: {self.mean_norm:g}). "
                "The weights and the last checkpoint are as before the first of them."
            )

    def _accepts(self, norm: float) -> bool:
        if not norm < float("inf"):  # true for NaN as well
            return False
        compares = self.max_norm_ratio is not None and self.num_accepted >= self.num_warmup_steps
        return not compares or norm <= self.max_norm_ratio * self.mean_norm

    def state_dict(self) -> dict[str, Any]:
        names = ("mean_norm", "num_accepted", "num_skipped", "num_skipped_in_a_row")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)


def gradient_norm(weights: list[torch.Tensor]) -> float:
    """The Euclidean norm of all gradients, over all ranks if they are sharded."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if not gradients:
        return 0.0
    norm = torch.nn.utils.get_total_norm(gradients)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
