"""Cross entropy of a linear head that never materialises all logits.

The logits of N tokens over V words are N * V numbers, by far the largest tensor of a training step (12.7 GB in float32
for 16,384 tokens and Llasa's 193,800 words, and as much again for their gradient). Here they are computed for
`chunk_size` tokens at a time, and the gradients in the same pass, as in Liger's fused linear cross entropy
(github.com/linkedin/Liger-Kernel): three matrix products in all, no recomputation. Tokens without a target are dropped
before the first product, which only changes the cost.

Shapes: N tokens, C channels of the hidden state, V words.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.batches import TokenBatch
from modules.precision import product_dtype

IGNORED = -100


class SummedLoss(NamedTuple):
    """Sum of the losses over the targets (nats, scalar, float32) and number of targets (scalar, int64).

    `losses_N`: the loss of each target, in order, without gradient.

    A NamedTuple because FSDP2 finds the tensors of a module's output inside tuples, not inside dataclasses.
    """

    total: Tensor
    num_targets: Tensor
    losses_N: Tensor


def code_bits(loss: SummedLoss, labels_RL: Tensor, code_offset: int) -> Tensor:
    """Losses of the targets that are codes (ids from `code_offset` on), in bits: their code length under the model."""
    labels_N = labels_RL[labels_RL != IGNORED]
    return loss.losses_N[labels_N >= code_offset] / math.log(2)


def sums_by_task(loss: SummedLoss, batch: TokenBatch, num_tasks: int) -> Tensor:
    """Return (2, tasks), float64: sum of the losses, and number of targets."""
    tasks_N = batch.tasks_RL[batch.labels_RL != IGNORED]
    sums = torch.zeros(2, num_tasks, dtype=torch.float64, device=tasks_N.device)
    return sums.index_add_(1, tasks_N, torch.stack([loss.losses_N, torch.ones_like(loss.losses_N)]).double())


def chosen_chunk_size(vocab_size: int, is_cpu: bool) -> int:
    """Number of tokens per chunk: the smallest at which the matrix product is limited by arithmetic.

    A GPU needs some 512 to 1024 rows for that; a CPU is as fast with 256, and keeps an eighth of the logits.
    """
    return max(256, min(1024, 2**26 // vocab_size // 256 * 256)) if is_cpu else 1024


def linear_cross_entropy(
    hidden_NC: Tensor, weight_VC: Tensor, labels_N: Tensor, chunk_size: int | None = None
) -> SummedLoss:
    """Summed cross entropy of `hidden_NC @ weight_VC.T` against `labels_N` (-100 = no target).

    `chunk_size` None: chosen for the matrix product. Without targets the sum is zero, with zero gradients. Under
    autocast all products are of its dtype, and the gradients of the inputs' own.
    """
    chunk_size = chunk_size or chosen_chunk_size(weight_VC.shape[0], weight_VC.device.type == "cpu")
    kept = (labels_N != IGNORED).nonzero().squeeze(1)
    hidden_NC, labels_N = hidden_NC.index_select(0, kept), labels_N.index_select(0, kept)
    if torch.is_grad_enabled():
        total, losses_N = _ChunkedCrossEntropy.apply(hidden_NC, weight_VC, labels_N, chunk_size)
    else:
        total, losses_N = hidden_NC.new_zeros((), dtype=torch.float32), hidden_NC.new_zeros(0, dtype=torch.float32)
        hidden_NC, weight_VC = _as_multiplied(hidden_NC, weight_VC)
        for hidden, labels in zip(hidden_NC.split(chunk_size), labels_N.split(chunk_size), strict=True):
            losses = F.cross_entropy((hidden @ weight_VC.T).float(), labels, reduction="none")
            total, losses_N = total + losses.sum(), torch.cat([losses_N, losses])
    return SummedLoss(total, torch.tensor(labels_N.numel(), device=labels_N.device), losses_N)


def _as_multiplied(hidden_NC: Tensor, weight_VC: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype of autocast, if it is on: it would convert the weights again for every chunk, and does not
    convert the factors of a product that is added to a float32 sum."""
    dtype = product_dtype(weight_VC)
    return hidden_NC.to(dtype), weight_VC.to(dtype)


def _log_softmax(logits: Tensor) -> Tensor:
    """Overwrites `logits` on a CPU, where the kernel reads a whole row before it writes it."""
    return torch.log_softmax(logits, -1, out=logits) if logits.device.type == "cpu" else logits.log_softmax(-1)


def _chunk_losses(
    hidden_nC: Tensor, weight_VC: Tensor, labels_n1: Tensor, needs_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Losses (n) of a chunk of n tokens, and the gradient (n, V) of their sum by the logits, in the dtype of the
    weights. Nothing else of (n, V) remains."""
    log_probabilities = _log_softmax((hidden_nC @ weight_VC.T).float())
    losses_n1 = -log_probabilities.gather(1, labels_n1)
    if not needs_gradient:
        return losses_n1.squeeze(1), None
    grad_logits = log_probabilities.exp_().scatter_(1, labels_n1, torch.expm1(-losses_n1))  # softmax, minus 1 there
    return losses_n1.squeeze(1), grad_logits.to(weight_VC.dtype)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NC: Tensor, weight_VC: Tensor, labels_N: Tensor, chunk_size: int
    ) -> tuple[Tensor, Tensor]:
        total = hidden_NC.new_zeros((), dtype=torch.float32)
        losses_N = hidden_NC.new_zeros(labels_N.numel(), dtype=torch.float32)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden_NC = torch.zeros_like(hidden_NC) if needs_hidden else None
        grad_weight_VC = torch.zeros_like(weight_VC, dtype=torch.float32) if needs_weight else None
        ctx.weight_dtype = weight_VC.dtype
        hidden_NC, weight_VC = _as_multiplied(hidden_NC, weight_VC)
        for start in range(0, labels_N.numel(), chunk_size):
            chunk = slice(start, start + chunk_size)
            hidden = hidden_NC[chunk]
            losses_N[chunk], grad_logits = _chunk_losses(
                hidden, weight_VC, labels_N[chunk, None], needs_hidden or needs_weight
            )
            total += losses_N[chunk].sum()
            if grad_hidden_NC is not None:
                grad_hidden_NC[chunk] = grad_logits @ weight_VC
            if grad_weight_VC is not None:
                if grad_logits.dtype == hidden.dtype == torch.float32:
                    grad_weight_VC.addmm_(grad_logits.T, hidden)  # no (V, C) product in addition to the sum
                else:
                    grad_weight_VC += grad_logits.T @ hidden
            del grad_logits  # before the next chunk's
        ctx.grad_hidden_NC, ctx.grad_weight_VC = grad_hidden_NC, grad_weight_VC
        ctx.mark_non_differentiable(losses_N)
        return total, losses_N

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_hidden_NC = None if ctx.grad_hidden_NC is None else ctx.grad_hidden_NC.mul_(grad_total)
        grad_weight_VC = None
        if ctx.grad_weight_VC is not None:
            grad_weight_VC = ctx.grad_weight_VC.mul_(grad_total).to(ctx.weight_dtype)  # a single (V, C) tensor
        ctx.grad_hidden_NC = ctx.grad_weight_VC = None
        return grad_hidden_NC, grad_weight_VC, None, None
