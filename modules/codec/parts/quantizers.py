"""Quantizers: one codebook, one code per frame.

Shapes: B batch, S frames, C channels, D code dimensions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modules.codec.settings import unusual

# Default levels by number of code dimensions, which the weights' shapes show. Other levels are part of the settings.
USUAL_LEVELS = {4: (8, 8, 8, 8), 6: (7, 7, 7, 7, 5, 5), 8: (4,) * 8}


@dataclass
class Quantized:
    """`latent_BSC` with straight-through gradient, `codes_BS` (int64), and `commitment_BS`, the commitment loss per
    frame of a learned codebook."""

    latent_BSC: Tensor
    codes_BS: Tensor
    commitment_BS: Tensor | None = None


class FiniteScalarQuantizer(nn.Module):
    """Finite scalar quantization (Mentzer et al., arXiv 2309.15505) through vector-quantize-pytorch, always in float32.

    Args:
        channels: Width before and after.
        levels: Levels per dimension; their product is the codebook size.
    """

    def __init__(self, channels: int, levels: Sequence[int]) -> None:
        super().__init__()
        from vector_quantize_pytorch import FSQ

        self.codebook_size, self.levels = math.prod(levels), tuple(levels)
        self.project_in = nn.Linear(channels, len(levels))
        self.quantizer = FSQ(levels=list(levels))
        self.project_out = nn.Linear(len(levels), channels)

    @property
    def encode_settings(self) -> str:
        """Settings that affect the codes and differ from the default."""
        return self.decode_settings

    @property
    def decode_settings(self) -> str:
        """Settings that affect the vectors of codes and differ from the default."""
        return unusual(self, levels=USUAL_LEVELS.get(len(self.levels)))

    def forward(self, x_BSC: Tensor) -> Quantized:
        with torch.autocast(x_BSC.device.type, enabled=False):
            quantized_BSD, codes_BS = self.quantizer(self.project_in(x_BSC.float()))
            return Quantized(self.project_out(quantized_BSD), codes_BS.long())

    def lookup(self, codes_BS: Tensor) -> Tensor:
        """Return the vectors (B, S, C) of codes, identical to those of `forward`."""
        with torch.autocast(codes_BS.device.type, enabled=False):
            return self.project_out(self.quantizer.indices_to_codes(codes_BS))


class Xcodec2Quantizer(FiniteScalarQuantizer):
    """Finite scalar quantization with the bound applied twice, as X-codec2's weights require.

    The reference code bounds before it calls a quantizer that bounds again. With four levels a dimension's value steps
    at -.8095, -.2434 and .4079 (one bound: -1.1497, -.3462 and .4573). transformers' Xcodec2Model does the same.
    """

    def __init__(self, channels: int = 2048, levels: Sequence[int] = (4,) * 8) -> None:
        super().__init__(channels, levels)
        levels_D = torch.tensor(levels)
        half_range_D = (levels_D - 1) * (1 + 1e-3) / 2
        offset_D = torch.where(levels_D % 2 == 0, 0.5, 0.0)
        self.register_buffer("half_range_D", half_range_D, persistent=False)
        self.register_buffer("offset_D", offset_D, persistent=False)
        self.register_buffer("shift_D", (offset_D / half_range_D).atanh(), persistent=False)

    @property
    def encode_settings(self) -> str:
        return f"bound twice{self.decode_settings}"

    def forward(self, x_BSC: Tensor) -> Quantized:
        with torch.autocast(x_BSC.device.type, enabled=False):
            bounded_BSD = (self.project_in(x_BSC.float()) + self.shift_D).tanh() * self.half_range_D - self.offset_D
            quantized_BSD, codes_BS = self.quantizer(bounded_BSD)
            return Quantized(self.project_out(quantized_BSD), codes_BS.long())


class SimVQ(nn.Module):
    """Vector quantization with a frozen random codebook behind a learned linear map (SimVQ, arXiv 2411.02038), in
    float32.

    All codes move together, so none dies. Uses vector-quantize-pytorch.

    Args:
        channels: Width before and after.
        codebook_size: Number of codes.
        code_channels: Width of a code.
        commitment_weight: Weight of the encoder's side of the loss; that of the codebook's side is 1.
        rotation_trick: Propagate gradients by rotation (arXiv 2410.06424) instead of straight-through.
    """

    encode_settings = decode_settings = ""

    def __init__(
        self,
        channels: int,
        codebook_size: int,
        code_channels: int = 8,
        commitment_weight: float = 0.25,
        rotation_trick: bool = False,
    ) -> None:
        super().__init__()
        from vector_quantize_pytorch import SimVQ as Quantizer

        self.codebook_size, self.commitment_weight = codebook_size, commitment_weight
        self.project_in = nn.Linear(channels, code_channels)
        self.quantizer = Quantizer(code_channels, codebook_size, rotation_trick=rotation_trick)
        self.project_out = nn.Linear(code_channels, channels)

    def forward(self, x_BSC: Tensor) -> Quantized:
        with torch.autocast(x_BSC.device.type, enabled=False):
            x_BSD = self.project_in(x_BSC.float())
            quantized_BSD, codes_BS, _ = self.quantizer(x_BSD)
            return Quantized(self.project_out(quantized_BSD), codes_BS, self._commitment(x_BSD, codes_BS))

    def _commitment(self, x_BSD: Tensor, codes_BS: Tensor) -> Tensor:
        """Commitment loss per frame. The library averages over all frames, but those beyond an item's length must not
        count."""
        nearest_BSD = self.quantizer.indices_to_codes(codes_BS)
        codebook_side = (x_BSD.detach() - nearest_BSD).square().mean(-1)
        encoder_side = (x_BSD - nearest_BSD.detach()).square().mean(-1)
        return codebook_side + self.commitment_weight * encoder_side

    def lookup(self, codes_BS: Tensor) -> Tensor:
        """Return the vectors (B, S, C) of codes, equal to those of `forward` up to rounding."""
        return self.project_out(self.quantizer.indices_to_codes(codes_BS))
