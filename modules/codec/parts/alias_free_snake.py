"""AliasFreeSnake: the alias-free SnakeBeta activation as a module, which picks the fastest of its four forms.

Shapes: B batch, C channels, T samples.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from modules.codec.parts.snake import NUM_TAPS, by_convolution, by_phases, kaiser_sinc_filter
from modules.codec.parts.snake_tiled import by_tiles

KERNEL_DTYPES = torch.float32, torch.bfloat16, torch.float16
TILED_DTYPES = torch.float32, torch.float64


class AliasFreeSnake(nn.Module):
    """Alias-free SnakeBeta: x + sin^2(exp(alpha) x) / exp(beta) at twice the sampling rate, between low-pass filters.

    alpha and beta are per channel. Samples beyond an item's length are ignored and returned as zero, the zero padding
    of a following convolution, so results do not depend on batching.

    Four equivalent implementations: inside torch.compile sums over phases; on CUDA the Triton kernel, if Triton is
    installed, the dtype is supported and a first self-check on the device passes; on a CPU without gradient small
    matrix products in tiles; otherwise convolutions.

    Args:
        channels: Number of input channels.
        compiled: Without CUDA, compile the sums over phases on the first call (needs a C++ compiler; takes a minute),
            once for all activations of a process.
    """

    def __init__(self, channels: int, compiled: bool = False) -> None:
        super().__init__()
        self.compiled = compiled
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.register_buffer("taps", kaiser_sinc_filter(0.25, 0.3, NUM_TAPS), persistent=False)

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return (B, C, T). `lengths_B` None: every item has length T."""
        if torch.compiler.is_compiling():
            return by_phases(x_BCT, self.alpha, self.beta, self.taps, lengths_B)
        if x_BCT.is_cuda and x_BCT.dtype in KERNEL_DTYPES and triton_is_installed():
            from modules.codec.parts.snake_cuda import fused_snake, kernel_agrees

            if kernel_agrees(x_BCT.device, x_BCT.dtype):
                return fused_snake(x_BCT, self.alpha, self.beta, lengths_B)
        if self.compiled:  # clones: parameter sizes are constants of a graph, which would be compiled for every width
            return compiled_by_phases()(x_BCT, self.alpha.clone(), self.beta.clone(), self.taps, lengths_B)
        if x_BCT.device.type == "cpu" and x_BCT.dtype in TILED_DTYPES and not self._needs_gradient(x_BCT):
            return by_tiles(x_BCT, self.alpha, self.beta, self.taps, lengths_B)
        return by_convolution(x_BCT, self.alpha, self.beta, self.taps, lengths_B)

    def _needs_gradient(self, x_BCT: Tensor) -> bool:
        return torch.is_grad_enabled() and any(one.requires_grad for one in (x_BCT, self.alpha, self.beta))


@cache
def triton_is_installed() -> bool:
    return find_spec("triton") is not None


@cache
def compiled_by_phases() -> Callable[..., Tensor]:
    """Compile `by_phases` once for all channels and lengths; again for calls with or without gradients or lengths."""
    return torch.compile(by_phases, dynamic=True)
