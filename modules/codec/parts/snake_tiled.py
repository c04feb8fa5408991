"""The alias-free snake on a CPU without a compiler, in tiles that stay in the cache. Without gradient.

Shapes: B batch, C channels, R channels of a tile, T samples, K blocks, N samples of a block, W = N + 12 samples that
affect it, A samples at twice the rate, 2 N + 10 of each block.

Each block of output is two small matrix products: (W, A) upsamples, (A, N) downsamples. Convolutions with one channel a
group are slow here, and whole tensors at twice the rate leave the cache between any two operations.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.codec.parts.snake import NUM_TAPS, by_convolution

BLOCK = 16
REACH = NUM_TAPS // 2  # samples before and after one that affect it; so many at each end depend on repeated edges
TILE = 2**16  # samples at twice the rate at once: 256 KiB


def by_tiles(x_BCT: Tensor, alpha_C: Tensor, beta_C: Tensor, taps_K: Tensor, lengths_B: Tensor | None = None) -> Tensor:
    """`by_convolution` up to rounding. Samples beyond an item's length are not computed: it gives the same alone."""
    lengths = [x_BCT.shape[-1]] * len(x_BCT) if lengths_B is None else lengths_B.tolist()
    y_BCT = torch.empty_like(x_BCT, memory_format=torch.contiguous_format)
    for y_CT, x_CT, length in zip(y_BCT, x_BCT, lengths, strict=True):
        _write(y_CT[:, :length], x_CT[:, :length], alpha_C, beta_C, taps_K)
        y_CT[:, length:] = 0
    return y_BCT


def _write(y_CT: Tensor, x_CT: Tensor, alpha_C: Tensor, beta_C: Tensor, taps_K: Tensor) -> None:
    length, settings = x_CT.shape[-1], (alpha_C, beta_C, taps_K)
    if length < 2 * REACH:
        y_CT[:] = by_convolution(x_CT[None], *settings)[0] if length else 0
        return
    num_blocks = -(-length // BLOCK)
    up_WA, down_AN = (one.to(x_CT) for one in block_filters(tuple(taps_K.tolist())))
    rate_C1 = alpha_C.exp()[:, None]
    weight_C1 = rate_C1 / (beta_C.exp()[:, None] + 1e-9)
    num_rows = max(1, TILE // (2 * num_blocks * BLOCK))
    for first in range(0, len(x_CT), num_rows):
        rows = slice(first, first + num_rows)
        # w = rate v, scaled at the low rate: v + sin(rate v)^2 / beta is (w + rate / beta sin(w)^2) / rate.
        scaled_RT = F.pad(x_CT[rows] * rate_C1[rows], (REACH, REACH + num_blocks * BLOCK - length))
        blocks_KW = scaled_RT.unfold(-1, BLOCK + 2 * REACH, BLOCK).reshape(-1, BLOCK + 2 * REACH)
        waves_RA = (blocks_KW @ up_WA).view(len(scaled_RT), -1)
        waves_RA.addcmul_(waves_RA.sin().square_(), weight_C1[rows])
        halved_RT = (waves_RA.view(-1, len(down_AN)) @ down_AN).view(len(scaled_RT), -1)
        torch.div(halved_RT[:, :length], rate_C1[rows], out=y_CT[rows])
    start_CT, end_CT = by_convolution(torch.stack([x_CT[:, : 2 * REACH], x_CT[:, -2 * REACH :]]), *settings)
    y_CT[:, :REACH], y_CT[:, -REACH:] = start_CT[:, :REACH], end_CT[:, REACH:]


@cache
def block_filters(taps: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Return the matrices (W, A), (A, N) of a block inside a signal."""
    size = 2 * BLOCK + NUM_TAPS - 2
    up_WA, down_AN = torch.zeros(BLOCK + 2 * REACH, size), torch.zeros(size, BLOCK)
    for sample in range(BLOCK):
        down_AN[2 * sample : 2 * sample + NUM_TAPS, sample] = torch.tensor(taps)
    for place in range(size):
        for sample in range(len(up_WA)):
            if 0 <= (tap := place + NUM_TAPS - 2 * sample) < NUM_TAPS:
                up_WA[sample, place] = 2 * taps[tap]
    return up_WA, down_AN
