"""The chunked loss against torch's cross entropy over whole logits."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from modules.lm.loss import linear_cross_entropy


def inputs(num_tokens: int = 37) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(num_tokens, 16, generator=generator).requires_grad_()
    weight = torch.randn(50, 16, generator=generator).requires_grad_()
    labels = torch.randint(50, (num_tokens,), generator=generator)
    labels[::3] = -100
    return hidden, weight, labels


@pytest.mark.parametrize("chunk_size", [1, 7, 24, 1000])
def test_chunks_give_the_loss_and_gradients_of_whole_logits(chunk_size):
    """Guards against a lost last chunk, ignored tokens that count, and gradients of the wrong scale."""
    hidden, weight, labels = inputs()
    total, num_targets, losses_N = linear_cross_entropy(hidden, weight, labels, chunk_size)
    gradients = torch.autograd.grad(total / num_targets, (hidden, weight))
    expected = F.cross_entropy(hidden @ weight.T, labels, ignore_index=-100)
    torch.testing.assert_close(total / num_targets, expected, rtol=1e-6, atol=1e-6)
    single = F.cross_entropy(hidden @ weight.T, labels, reduction="none")[labels >= 0]
    torch.testing.assert_close(losses_N, single, rtol=1e-6, atol=1e-6)
    assert not losses_N.requires_grad
    for actual, reference in zip(gradients, torch.autograd.grad(expected, (hidden, weight)), strict=True):
        torch.testing.assert_close(actual, reference, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(hidden, weight, labels, chunk_size).total, total)


class ProductDtypes(TorchDispatchMode):
    """Notes the dtypes of the factors of all matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__.startswith(("mm", "addmm")):
            self.found |= {factor.dtype for factor in args[-2:]}
        return function(*args, **(kwargs or {}))


def test_under_autocast_all_products_are_of_its_dtype():
    """Guards against float32 products of the head in mixed precision, and against gradients in bfloat16 that lose what
    chunks add up."""
    hidden, weight, labels = inputs(4096)
    with torch.autocast("cpu", torch.bfloat16), ProductDtypes() as products:
        total, num_targets, losses_N = linear_cross_entropy(hidden, weight, labels, 64)
        gradients = torch.autograd.grad(total / num_targets, (hidden, weight))
        with torch.no_grad():
            torch.testing.assert_close(linear_cross_entropy(hidden, weight, labels, 64).total, total)
    assert products.found == {torch.bfloat16}
    assert total.dtype == losses_N.dtype == torch.float32
    expected = F.cross_entropy(hidden @ weight.T, labels, ignore_index=-100)
    torch.testing.assert_close(total / num_targets, expected, rtol=1e-3, atol=0)
    references = torch.autograd.grad(expected, (hidden, weight))
    for actual, reference, tolerance in zip(gradients, references, (1e-2, 4e-3), strict=True):
        assert actual.dtype == torch.float32
        assert (actual - reference).norm() < tolerance * reference.norm()


def test_no_target_gives_zero_and_not_nan():
    """Guards against a mean over nothing when a rank's rows hold padding only."""
    hidden, weight, labels = inputs()
    total, num_targets, _ = linear_cross_entropy(hidden, weight, torch.full_like(labels, -100))
    total.backward()
    assert total == 0 and num_targets == 0
    assert not hidden.grad.any() and not weight.grad.any()


class LogitsAlive(TorchDispatchMode):
    """Notes how many tensors of a chunk's logits are alive before each chunk's product."""

    def __init__(self, chunk_size: int, vocab_size: int) -> None:
        super().__init__()
        self.shape, self.known, self.found = (chunk_size, vocab_size), [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.shape == self.shape:
            if function.overloadpacket.__name__ == "mm":
                self.found.append(sum(known() is not None for known in self.known))
            self.known.append(weakref.ref(result))
        return result


@pytest.mark.parametrize("half", [False, True])
def test_a_chunks_logits_are_gone_before_the_next(half):
    """Guards against the memory of two chunks: 0.8 GB more for Llasa's words and 1,024 tokens."""
    hidden, weight, labels = inputs(384)  # 256 targets, 64 a chunk
    with torch.autocast("cpu", torch.bfloat16, enabled=half), LogitsAlive(64, 50) as alive:
        linear_cross_entropy(hidden, weight, labels, 64)
    assert alive.found == [0, 0, 0, 0]


def test_whole_logits_are_never_held():
    """Guards against a chunk loop that keeps every chunk's logits alive for the backward pass."""
    hidden, weight, labels = inputs(4096)
    largest = 0

    def watch(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(watch, lambda tensor: tensor):
        linear_cross_entropy(hidden, weight, labels, chunk_size=64)
    assert largest <= hidden.numel()
