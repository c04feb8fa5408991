"""The alias-free SnakeBeta activation of BigVGAN (arXiv 2206.04658) and BigCodec.

Shapes: B batch, C channels, T samples.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.codec.spectral import frame_mask

NUM_TAPS = 12
UP_EDGE = 5  # samples repeated at both ends before upsampling by two
DOWN_EDGES = 5, 6  # and before downsampling


def kaiser_sinc_filter(cutoff: float, half_width: float, num_taps: int) -> Tensor:
    """(num_taps,) low-pass filter with sum 1: a sinc under a Kaiser window; frequencies in cycles per sample.

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
    """(B, C, left + T + right): the first and the last sample of each item repeated; the last is at its own length."""
    padded = F.pad(x_BCT, (left, right), mode="replicate")
    if lengths_B is None:
        return padded
    channels, last_B = x_BCT.shape[1], (lengths_B - 1).clamp(min=0)
    last_BC1 = x_BCT.gather(2, last_B[:, None, None].expand(-1, channels, 1))
    beyond_BR = left + last_B[:, None] + 1 + torch.arange(right, device=last_B.device)
    return padded.scatter_(2, beyond_BR[:, None].expand(-1, channels, -1), last_BC1.expand(-1, -1, right))


class AliasFreeSnake(nn.Module):
    """x + sin^2(exp(alpha) x) / exp(beta) at twice the sampling rate, between two low-pass filters, per channel.

    What stands beyond an item's length is not looked at and comes out as zero, as the zero padding of a convolution
    behind it would be. So items of a batch get what they get alone.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.register_buffer("taps", kaiser_sinc_filter(0.25, 0.3, NUM_TAPS), persistent=False)

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """(B, C, T). `lengths_B` None: every item is T long."""
        filters = self.taps.to(x_BCT.dtype).expand(x_BCT.shape[1], 1, -1)
        edged = repeat_edges(x_BCT, UP_EDGE, UP_EDGE, lengths_B)
        doubled = 2 * F.conv_transpose1d(edged, filters, stride=2, groups=x_BCT.shape[1])
        edge = 2 * UP_EDGE + NUM_TAPS // 2 - 1
        active = snake(doubled[..., edge:-edge], self.alpha, self.beta)
        active = repeat_edges(active, *DOWN_EDGES, None if lengths_B is None else 2 * lengths_B)
        halved = F.conv1d(active, filters, stride=2, groups=x_BCT.shape[1])
        if lengths_B is None:
            return halved
        return halved.masked_fill(~frame_mask(lengths_B, halved.shape[-1])[:, None], 0)


def snake(x_BCT: Tensor, alpha_C: Tensor, beta_C: Tensor) -> Tensor:
    """SnakeBeta on logarithmic parameters (BigVGAN)."""
    return x_BCT + torch.sin(x_BCT * alpha_C.exp()[:, None]).square() / (beta_C.exp()[:, None] + 1e-9)
