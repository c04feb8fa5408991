"""Gradient accumulation weighted by targets: an update's gradient is that of the mean loss over all its targets.

The mean of the micro-batches' means, which a Trainer's accumulation computes, gives more weight to targets of small
micro-batches, and makes the gradient of a last, shorter window too small.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from modules.lm.loss import SummedLoss


class AccumulationWindow:
    """The micro-batches of one optimizer step, on all ranks.

    Each micro-batch's loss is its sum over its targets, divided by a number that is the same on all ranks throughout
    the window: the targets of all ranks in the first micro-batch. Gradients then have about the magnitude of a mean's,
    which matters in 16 bits. After the last backward pass `average_gradients` replaces that number by the targets of
    the whole window; with one micro-batch no correction is needed.

    Args:
        num_ranks: Number of data-parallel ranks, which average their gradients.
    """

    def __init__(self, num_ranks: int = 1) -> None:
        self.num_ranks, self.num_micro_batches = num_ranks, 0
        self._divisor: Tensor | None = None
        self._sums_2: Tensor | None = None  # this rank's loss and number of targets; float32 counts exactly to 2^24

    def add(self, loss: SummedLoss) -> Tensor:
        """Add a micro-batch. Returns the scalar loss to call backward on."""
        sums_2 = torch.stack([loss.total.detach(), loss.num_targets.float()])
        if self._divisor is None:
            self._divisor = summed_over_ranks(loss.num_targets, self.num_ranks).clamp(min=1)
            self._sums_2 = sums_2
        else:
            self._sums_2 = self._sums_2 + sums_2
        self.num_micro_batches += 1
        return loss.total * self.num_ranks / self._divisor  # DDP and FSDP2 divide by the number of ranks

    def sums(self) -> tuple[Tensor, Tensor]:
        """Return the summed loss (nats) and the number of targets of all micro-batches and ranks. Collective."""
        total, num_targets = summed_over_ranks(self._sums_2, self.num_ranks)
        return total, num_targets

    def average_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """Divide by the targets of the whole window. Collective; call it after the last backward pass."""
        if self.num_micro_batches > 1:
            _, num_targets = self.sums()
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            local = [one.to_local() if isinstance(one, DTensor) else one for one in gradients]
            if local:
                torch._foreach_mul_(local, self._divisor / num_targets.clamp(min=1))


def summed_over_ranks(values: Tensor, num_ranks: int) -> Tensor:
    """Return the sum over all ranks, on each of them; `values` itself if there is one rank."""
    if num_ranks == 1:
        return values
    values = values.clone()
    torch.distributed.all_reduce(values)
    return values
