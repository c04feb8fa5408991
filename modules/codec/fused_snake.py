"""The alias-free SnakeBeta on CUDA with gradients: one launch of modules/codec/snake_kernel.py forward, one backward.

Needs Triton (3.6 or later). Runs on the CPU too under TRITON_INTERPRET=1, set before Triton is imported.

Shapes: B batch, C channels, T samples.
"""

import math
from functools import cache

import torch
import triton
from torch import Tensor

from modules.codec.activations import NUM_TAPS, kaiser_sinc_filter
from modules.codec.snake_kernel import backward_kernel, forward_kernel

SPAN = 16  # samples of one lane
MAX_LANES = 128


@cache
def _taps() -> tuple[float, ...]:
    return tuple(kaiser_sinc_filter(0.25, 0.3, NUM_TAPS).tolist())


def launch_settings(num_rows: int, num_samples: int) -> tuple[tuple[int, int], dict]:
    """Grid and constants: as many lanes a program as a row has chunks, 32 to MAX_LANES, one thread each."""
    num_chunks = triton.cdiv(num_samples, SPAN)
    lanes = min(max(triton.next_power_of_2(num_chunks), 32), MAX_LANES)
    constants = {"PART": math.gcd(num_samples, 16), "TAPS": _taps(), "LANES": lanes, "SPAN": SPAN}
    options = {"num_warps": lanes // 32, "enable_fp_fusion": True}  # two in three operations are multiply-adds
    return (num_rows, triton.cdiv(num_chunks, lanes)), constants | options


@torch.library.custom_op("alias_free_snake::forward", mutates_args=())
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


@_forward.register_fake
def _forward_shape(x_BCT: Tensor, alpha_C: Tensor, beta_C: Tensor, lengths_B: Tensor | None) -> Tensor:
    return torch.empty_like(x_BCT, memory_format=torch.contiguous_format)


@torch.library.custom_op("alias_free_snake::backward", mutates_args=())
def _backward(
    grad_BCT: Tensor, x_BCT: Tensor, alpha_C: Tensor, beta_C: Tensor, lengths_B: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of x, and of alpha and beta as (2, C) in float32."""
    x_BCT, grad_BCT = x_BCT.contiguous(), grad_BCT.contiguous()
    batch_size, num_channels, num_samples = x_BCT.shape
    grad_x_BCT = torch.empty_like(x_BCT)
    grid, settings = launch_settings(batch_size * num_channels, num_samples)
    # Each program leaves its own sums: no atomic additions, so the result does not depend on their order.
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


@_backward.register_fake
def _backward_shape(
    grad_BCT: Tensor, x_BCT: Tensor, alpha_C: Tensor, beta_C: Tensor, lengths_B: Tensor | None
) -> tuple[Tensor, Tensor]:
    grad_x_BCT = torch.empty_like(x_BCT, memory_format=torch.contiguous_format)
    return grad_x_BCT, x_BCT.new_empty((2, x_BCT.shape[1]), dtype=torch.float32)


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
    """(B, C, T) in the dtype of x (float32, bfloat16, float16); what `by_convolution` gives, with its gradients."""
    return _FusedSnake.apply(x_BCT, alpha_C, beta_C, lengths_B)
