"""Quantizers: one codebook, one code per frame.

Shapes: B batch, S frames, C channels, D code dimensions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Quantized:
    """`latent_BSC` with straight-through gradient, and `codes_BS` (int64)."""

    latent_BSC: Tensor
    codes_BS: Tensor


class FiniteScalarQuantizer(nn.Module):
    """Finite scalar quantization (Mentzer et al., arXiv 2309.15505) through vector-quantize-pytorch, always in float32.

    Args:
        channels: Width before and after.
        levels: Levels per dimension; their product is the codebook size.
    """

    def __init__(self, channels: int, levels: Sequence[int]) -> None:
        super().__init__()
        from vector_quantize_pytorch import FSQ

        self.codebook_size = math.prod(levels)
        self.project_in = nn.Linear(channels, len(levels))
        self.quantizer = FSQ(levels=list(levels))
        self.project_out = nn.Linear(len(levels), channels)

    def forward(self, x_BSC: Tensor) -> Quantized:
        with torch.autocast(x_BSC.device.type, enabled=False):
            quantized_BSD, codes_BS = self.quantizer(self.project_in(x_BSC.float()))
            return Quantized(self.project_out(quantized_BSD), codes_BS.long())

    def lookup(self, codes_BS: Tensor) -> Tensor:
        """(B, S, C) of codes; the same numbers that `forward` gave."""
        return self.project_out(self.quantizer.indices_to_codes(codes_BS))
