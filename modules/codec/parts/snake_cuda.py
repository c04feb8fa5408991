"""Alias-free SnakeBeta on CUDA with gradients: one launch of snake_triton.py's kernel forward, one backward.

Needs Triton (3.6 or later). Also runs on the CPU under TRITON_INTERPRET=1, set before Triton is imported.

Shapes: B batch, C channels, T samples.
"""

import math
import warnings
from collections.abc import Callable
from functools import cache

import torch
import triton
from torch import Tensor

from modules.codec.parts.snake import NUM_TAPS, by_convolution, kaiser_sinc_filter
from modules.codec.parts.snake_triton import backward_kernel, forward_kernel

SPAN = 16  # samples per lane
MAX_LANES = 128


@cache
def _taps() -> tuple[float, ...]:
    return tuple(kaiser_sinc_filter(0.25, 0.3, NUM_TAPS).tolist())


def launch_settings(num_rows: int, num_samples: int) -> tuple[tuple[int, int], dict]:
    """Grid and constants: as many lanes per program as a row has chunks, 32 to MAX_LANES, one thread each."""
    num_chunks = triton.cdiv(num_samples, SPAN)
    lanes = min(max(triton.next_power_of_2(num_chunks), 32), MAX_LANES)
    constants = {"PART": math.gcd(num_samples, 16), "TAPS": _taps(), "LANES": lanes, "SPAN": SPAN}
    options = {"num_warps": lanes // 32, "enable_fp_fusion": True}  # two thirds of the operations are multiply-adds
    return (num_rows, triton.cdiv(num_chunks, lanes)), constants | options


def _forward(x_BCT: Tensor, alpha_C: Tensor, beta_C: Tensor, lengths_B: Tensor | None) -> Tensor:
    x_BCT = x_BCT.contiguous()
    batch_size, num_channels, num_samples = x_BCT.shape
    y_BCT = torch.empty_like(x_BCT)
    grid, settings = launch_settings(batch_size * num_channels, num_samples)
    with torch.cuda.device_of(x_BCT):
        forward_kernel[grid](
            x_BCT, y_BCT, alpha_C, beta_C, lengths_B, num_channels, num_samples // settings["PART"], **settings
        )
    return y_BCT


def _backward(
    grad_BCT: Tensor, x_BCT: Tensor, alpha_C: Tensor, beta_C: Tensor, lengths_B: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x, and of alpha and beta as (2, C) in float32."""
    x_BCT, grad_BCT = x_BCT.contiguous(), grad_BCT.contiguous()
    batch_size, num_channels, num_samples = x_BCT.shape
    grad_x_BCT = torch.empty_like(x_BCT)
    grid, settings = launch_settings(batch_size * num_channels, num_samples)
    # Each program stores its own sums: without atomic additions the result does not depend on their order.
    partial = x_BCT.new_empty((batch_size, num_channels, grid[1], 2), dtype=torch.float32)
    with torch.cuda.device_of(x_BCT):
        backward_kernel[grid](
            x_BCT,
            grad_BCT,
            grad_x_BCT,
            partial,
            alpha_C,
            beta_C,
            lengths_B,
            num_channels,
            num_samples // settings["PART"],
            **settings,
        )
    return grad_x_BCT, partial.sum((0, 2)).T.contiguous()


class _FusedSnake(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_BCT: Tensor, alpha_C: Tensor, beta_C: Tensor, lengths_B: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_BCT, alpha_C, beta_C, lengths_B)
        return _forward(x_BCT, alpha_C, beta_C, lengths_B)

    @staticmethod
    def backward(ctx, grad_BCT: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        _, alpha_C, beta_C, _ = ctx.saved_tensors
        grad_x_BCT, grads_2C = _backward(grad_BCT, *ctx.saved_tensors)
        return grad_x_BCT, grads_2C[0].to(alpha_C.dtype), grads_2C[1].to(beta_C.dtype), None


def fused_snake(x_BCT: Tensor, alpha_C: Tensor, beta_C: Tensor, lengths_B: Tensor | None = None) -> Tensor:
    """Return (B, C, T) in the dtype of x (float32, bfloat16, float16), equal to `by_convolution`, with gradients."""
    return _FusedSnake.apply(x_BCT, alpha_C, beta_C, lengths_B)


@cache
@torch.inference_mode(False)  # within inference mode too, gradients are compared
def kernel_agrees(device: torch.device, dtype: torch.dtype) -> bool:
    """Check that the kernel's outputs and gradients equal those of convolutions on this device. Cached; warns if not.

    If the kernel fails on a GPU or a Triton version, training becomes slower, not wrong.
    """
    taps_K = kaiser_sinc_filter(0.25, 0.3, NUM_TAPS).to(device)
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2

    def convolutions(x_BCT: Tensor, alpha_C: Tensor, beta_C: Tensor, lengths_B: Tensor) -> Tensor:
        return by_convolution(x_BCT.float(), alpha_C, beta_C, taps_K, lengths_B)

    try:
        expected = _output_and_gradients(convolutions, device, dtype)
        for found, wanted in zip(_output_and_gradients(fused_snake, device, dtype), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))
    except Exception as error:  # noqa: BLE001 - whatever a compiler or a driver raises, there is another form
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(
            "Expected the Triton kernel of AliasFreeSnake to give what convolutions give, "
            f"but got on {device}, {dtype}: {reason} Convolutions take its place, which are slower.",
            stacklevel=2,
        )
        return False
    return True


@torch.enable_grad()
def _output_and_gradients(form: Callable[..., Tensor], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Output and gradients in float32 for an input of (2, 3, 200) whose second item is shorter."""
    x_BCT = torch.randn(2, 3, 200, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    leaves = [x_BCT, torch.full((3,), 0.4, device=device), torch.full((3,), -0.3, device=device)]
    with torch.autocast(device.type, enabled=False):
        y_BCT = form(*(leaf.requires_grad_() for leaf in leaves), torch.tensor([200, 131], device=device)).float()
        return [y_BCT.detach(), *(grad.float() for grad in torch.autograd.grad(y_BCT.square().sum(), leaves))]
