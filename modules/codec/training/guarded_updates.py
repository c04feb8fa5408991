"""GuardedUpdates: skips updates with non-finite gradients and counts them on the gradient's device."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

MAX_SKIPPED_IN_A_ROW = 10


class GuardedUpdates:
    """Skips updates of one network whose gradient norm is not finite, without synchronising with the device.

    A fused torch optimizer (`fused: true`) skips such an update itself: weights, moments and step count are unchanged.
    For others the gradient is set to zero: weights stay finite, while moments decay by one update. The norm is over all
    ranks, so that all ranks agree.

    Args:
        network: Name of the network, for the error.
    """

    def __init__(self, network: str) -> None:
        self.network = network
        # Numbers before the first update, then tensors on the gradient's device.
        self.num_skipped: Tensor | int = 0
        self.num_in_a_row: Tensor | int = 0

    @contextmanager
    def around(self, optimizer: Optimizer, norm: Tensor) -> Iterator[None]:
        """Context for the optimizer's step; `norm` (scalar) is the norm of its gradient before clipping."""
        is_bad = ~norm.isfinite()
        self.num_skipped = self.num_skipped + is_bad
        self.num_in_a_row = (self.num_in_a_row + 1) * is_bad
        # The interface used by torch's GradScaler.
        skips_itself = getattr(optimizer, "_step_supports_amp_scaling", False)
        if skips_itself:
            optimizer.found_inf = is_bad.float()
        else:
            _zero_where(is_bad, [weight for group in optimizer.param_groups for weight in group["params"]])
        try:
            yield
        finally:
            if skips_itself:
                del optimizer.found_inf

    def check(self) -> None:
        """Synchronise with the device. Raises RuntimeError after too many skipped updates in a row."""
        num_in_a_row = int(self.num_in_a_row)
        if num_in_a_row > MAX_SKIPPED_IN_A_ROW:
            raise RuntimeError(
                f"Expected a finite gradient of the {self.network}, but got {num_in_a_row} others in a row. All were "
                "skipped: weights and checkpoints are finite, but nothing is learned. Look at the data, lower the "
                "learning rate, and resume from the last checkpoint."
            )

    def state_dict(self) -> dict[str, int]:
        return {"num_skipped": int(self.num_skipped), "num_in_a_row": int(self.num_in_a_row)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.num_skipped, self.num_in_a_row = state["num_skipped"], state["num_in_a_row"]


def _zero_where(is_bad: Tensor, weights: list[Tensor]) -> None:
    for weight in weights:
        if weight.grad is not None:
            gradient = weight.grad.to_local() if isinstance(weight.grad, DTensor) else weight.grad
            gradient.masked_fill_(is_bad, 0.0)
