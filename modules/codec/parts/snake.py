"""The alias-free SnakeBeta activation of BigVGAN (arXiv 2206.04658) and BigCodec, as functions.

Shapes: B batch, C channels, T samples.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.codec.parts.spectral import frame_mask

NUM_TAPS = 12
UP_EDGE = 5  # samples repeated at both ends before upsampling by two
DOWN_EDGES = 5, 6  # samples repeated before downsampling


def kaiser_sinc_filter(cutoff: float, half_width: float, num_taps: int) -> Tensor:
    """Return a (num_taps,) low-pass filter with sum 1: a Kaiser-windowed sinc; frequencies in cycles per sample.

    The window's shape follows Kaiser's rule for the transition width, as in BigVGAN.
    """
    attenuation = 2.285 * (num_taps // 2 - 1) * math.pi * 4 * half_width + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    else:
        beta = 0.5842 * max(0.0, attenuation - 21) ** 0.4 + 0.07886 * max(0.0, attenuation - 21)
    window = torch.kaiser_window(num_taps, periodic=False, beta=beta)
    times = torch.arange(num_taps) - (num_taps - 1) / 2
    taps = window * torch.sinc(2 * cutoff * times)
    return taps / taps.sum()


def repeat_edges(x_BCT: Tensor, left: int, right: int, lengths_B: Tensor | None) -> Tensor:
    """Return (B, C, left + T + right) with each item's first and last sample repeated; the last one is at its own
    length."""
    padded = F.pad(x_BCT, (left, right), mode="replicate")
    if lengths_B is None:
        return padded
    channels, last_B = x_BCT.shape[1], (lengths_B - 1).clamp(min=0)
    last_BC1 = x_BCT.gather(2, last_B[:, None, None].expand(-1, channels, 1))
    beyond_BR = left + last_B[:, None] + 1 + torch.arange(right, device=last_B.device)
    return padded.scatter_(2, beyond_BR[:, None].expand(-1, channels, -1), last_BC1.expand(-1, -1, right))


def by_convolution(
    x_BCT: Tensor, alpha_C: Tensor, beta_C: Tensor, taps_K: Tensor, lengths_B: Tensor | None = None
) -> Tensor:
    """Alias-free snake by a transposed and a strided convolution: the simplest implementation, and the reference."""
    filters = taps_K.to(x_BCT.dtype).expand(x_BCT.shape[1], 1, -1)
    edged = repeat_edges(x_BCT, UP_EDGE, UP_EDGE, lengths_B)
    doubled = 2 * F.conv_transpose1d(edged, filters, stride=2, groups=x_BCT.shape[1])
    edge = 2 * UP_EDGE + NUM_TAPS // 2 - 1
    active = snake(doubled[..., edge:-edge], alpha_C, beta_C)
    active = repeat_edges(active, *DOWN_EDGES, None if lengths_B is None else 2 * lengths_B)
    halved = F.conv1d(active, filters, stride=2, groups=x_BCT.shape[1])
    if lengths_B is None:
        return halved
    return halved.masked_fill(~frame_mask(lengths_B, halved.shape[-1])[:, None], 0)


def by_phases(
    x_BCT: Tensor, alpha_C: Tensor, beta_C: Tensor, taps_K: Tensor, lengths_B: Tensor | None = None
) -> Tensor:
    """Alias-free snake by sums over shifted samples, which a compiler fuses into two passes.

    Even and odd samples at twice the rate are kept separate; each is made by every second tap. The filter is symmetric,
    so the taps that make the even samples of x weight the odd ones in downsampling.
    """
    rising_K, falling_K = taps_K.to(x_BCT.dtype).unflatten(0, (-1, 2)).unbind(1)
    inside_B1T = last_BC1 = None
    if lengths_B is not None:
        inside_B1T = frame_mask(lengths_B, x_BCT.shape[-1])[:, None]
        last_BC1 = (lengths_B - 1).clamp(min=0)[:, None, None].expand(-1, x_BCT.shape[1], 1)
        x_BCT = torch.where(inside_B1T, x_BCT, x_BCT.gather(2, last_BC1))
    padded = between(x_BCT[..., :1], x_BCT, x_BCT[..., -1:], 3, 3)
    even_BCT = snake(2 * weighted_shifts(padded[..., :-1], rising_K), alpha_C, beta_C)
    odd_BCT = snake(2 * weighted_shifts(padded[..., 1:], falling_K), alpha_C, beta_C)
    end_BC1 = odd_BCT[..., -1:]
    if lengths_B is not None:
        end_BC1 = odd_BCT.gather(2, last_BC1)
        even_BCT, odd_BCT = (torch.where(inside_B1T, phase, end_BC1) for phase in (even_BCT, odd_BCT))
    start_BC1 = even_BCT[..., :1]
    halved = weighted_shifts(between(start_BC1, even_BCT, end_BC1, 2, 3), falling_K)
    halved = halved + weighted_shifts(between(start_BC1, odd_BCT, end_BC1, 3, 2), rising_K)
    if lengths_B is not None:
        halved = halved.masked_fill(~inside_B1T, 0)
    return halved.to(x_BCT.dtype)


def between(start_BC1: Tensor, x_BCT: Tensor, end_BC1: Tensor, left: int, right: int) -> Tensor:
    return torch.cat([start_BC1.expand(-1, -1, left), x_BCT, end_BC1.expand(-1, -1, right)], 2)


def weighted_shifts(x_BCT: Tensor, weights_K: Tensor) -> Tensor:
    """Return (B, C, T - K + 1): the sum of x shifted by k, weighted by tap k."""
    length = x_BCT.shape[-1] - len(weights_K) + 1
    return sum(weight * x_BCT[..., shift : shift + length] for shift, weight in enumerate(weights_K.unbind()))


def snake(x_BCT: Tensor, alpha_C: Tensor, beta_C: Tensor) -> Tensor:
    """SnakeBeta on logarithmic parameters (BigVGAN)."""
    return x_BCT + torch.sin(x_BCT * alpha_C.exp()[:, None]).square() / (beta_C.exp()[:, None] + 1e-9)
