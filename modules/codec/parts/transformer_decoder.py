"""TransformerDecoder: the decoder of X-codec2 (arXiv 2502.04128): Vocos with a transformer in place of ConvNeXt.

Shapes: B batch, S frames, C channels, G groups, H heads, D channels per head, T samples.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.codec.parts.acoustic_encoder import unequal_lengths
from modules.codec.parts.spectral import InverseSTFT, frame_mask
from modules.codec.settings import unusual


class TransformerDecoder(nn.Module):
    """Convolutions, transformer blocks with full attention, convolutions, then the inverse STFT.

    Results do not depend on batching. Attention and group norms cover a whole item, so the receptive field is
    unbounded: `receptive_frames` is infinite, and CodecGenerator.decode starts at the first frame to decode the tail of
    an item exactly. Decoding in chunks with a bounded context is an approximation.

    Args:
        sample_rate: Sample rate of the output, Hz. May differ from the encoder's.
        hop_length: Output samples per code; the STFT's window is four hops.
        channels, num_layers, num_heads, hidden_channels: Sizes of the transformer.
        num_groups: Number of groups of the group norms.
        dropout: Dropout between the convolutions, in training.
        time_rotary: Rotate queries and keys by their position in time. Must be off for the released weights: their code
            rotates by the head index, which has no effect, and only the convolutions are sensitive to order.
    """

    receptive_frames = math.inf

    def __init__(
        self,
        sample_rate: int = 16000,
        hop_length: int = 320,
        channels: int = 1024,
        num_layers: int = 12,
        num_heads: int = 16,
        hidden_channels: int = 4096,
        num_groups: int = 32,
        dropout: float = 0.1,
        time_rotary: bool = False,
    ) -> None:
        super().__init__()
        if channels % num_groups or channels % (2 * num_heads):
            raise ValueError(
                f"Expected `channels` to be a multiple of `num_groups`={num_groups} and of twice `num_heads`="
                f"{num_heads}, but got {channels}."
            )
        self.sample_rate, self.hop_length, self.channels = sample_rate, hop_length, channels
        self.num_heads, self.dropout, self.time_rotary = num_heads, dropout, time_rotary
        self.num_groups = num_groups
        self.embed = nn.Conv1d(channels, channels, 7, padding=3)
        self.prior = nn.ModuleList(_ConvolutionBlock(channels, num_groups, dropout) for _ in range(2))
        self.layers = nn.ModuleList(_TransformerBlock(channels, num_heads, hidden_channels) for _ in range(num_layers))
        self.post = nn.ModuleList(_ConvolutionBlock(channels, num_groups, dropout) for _ in range(2))
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.head = nn.Linear(channels, 4 * hop_length + 2)
        self.inverse_stft = InverseSTFT(4 * hop_length, hop_length)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def decode_settings(self) -> str:
        """Settings that affect the audio and differ from the default."""
        return unusual(self, sample_rate=16000, hop_length=320, num_heads=16, num_groups=32, time_rotary=False)

    def forward(self, latent_BSC: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return (B, S * hop_length)."""
        num_frames = latent_BSC.shape[1]
        whole_BS = frame_mask(num_frames_B, num_frames)
        lengths_B = unequal_lengths(num_frames_B, num_frames)
        mask_BS = None if lengths_B is None else whole_BS
        rotation_SD = _rotation(num_frames, self.channels // self.num_heads, latent_BSC) if self.time_rotary else None
        x_BCS = self.embed(_silenced(latent_BSC.transpose(1, 2), mask_BS))
        for block in self.prior:
            x_BCS = block(x_BCS, mask_BS)
        x_BSC = x_BCS.transpose(1, 2)
        for layer in self.layers:
            x_BSC = layer(x_BSC, mask_BS, rotation_SD)
        x_BCS = x_BSC.transpose(1, 2)
        for block in self.post:
            x_BCS = block(x_BCS, mask_BS)
        log_magnitude, phase = self.head(self.norm(x_BCS.transpose(1, 2))).float().chunk(2, dim=-1)
        return self.inverse_stft(torch.polar(log_magnitude.exp().clamp(max=1e2), phase), whole_BS)


def masked_group_norm(x_BCS: Tensor, norm: nn.GroupNorm, mask_BS: Tensor | None) -> Tensor:
    """Group normalisation whose statistics exclude frames beyond an item's length. Mask None: every frame counts."""
    if mask_BS is None:
        return norm(x_BCS)
    batch, channels, num_frames = x_BCS.shape
    grouped = x_BCS.float().reshape(batch, norm.num_groups, -1, num_frames)
    mask_B11S = mask_BS[:, None, None]
    count_B111 = mask_BS.sum(1)[:, None, None, None].clamp(min=1) * (channels // norm.num_groups)
    mean = (grouped * mask_B11S).sum((2, 3), keepdim=True) / count_B111
    centred = (grouped - mean) * mask_B11S
    variance = centred.square().sum((2, 3), keepdim=True) / count_B111
    normalised = (centred * (variance + norm.eps).rsqrt()).view(batch, channels, num_frames)
    return (normalised * norm.weight[:, None] + norm.bias[:, None]).to(x_BCS.dtype)


class _ConvolutionBlock(nn.Module):
    """Two convolutions, each after group norm and swish, with a skip connection."""

    def __init__(self, channels: int, num_groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, channels, eps=1e-6)
        self.convolution1 = nn.Conv1d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(num_groups, channels, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.convolution2 = nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, x_BCS: Tensor, mask_BS: Tensor | None) -> Tensor:
        y_BCS = F.silu(masked_group_norm(x_BCS, self.norm1, mask_BS))
        y_BCS = self.convolution1(_silenced(y_BCS, mask_BS))
        y_BCS = self.dropout(F.silu(masked_group_norm(y_BCS, self.norm2, mask_BS)))
        return x_BCS + self.convolution2(_silenced(y_BCS, mask_BS))


class _Attention(nn.Module):
    """Full self-attention among the frames of an item."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.queries_keys_values = nn.Linear(channels, 3 * channels, bias=False)
        self.output = nn.Linear(channels, channels, bias=False)

    def forward(self, x_BSC: Tensor, mask_BS: Tensor | None, rotation_SD: Tensor | None) -> Tensor:
        joint = self.queries_keys_values(x_BSC).unflatten(-1, (3, self.num_heads, -1))
        queries_BHSD, keys_BHSD, values_BHSD = joint.permute(2, 0, 3, 1, 4)
        if rotation_SD is not None:
            queries_BHSD, keys_BHSD = (_rotated(heads, rotation_SD) for heads in (queries_BHSD, keys_BHSD))
        seen = None if mask_BS is None else mask_BS[:, None, None]
        mixed_BHSD = F.scaled_dot_product_attention(queries_BHSD, keys_BHSD, values_BHSD, attn_mask=seen)
        return self.output(mixed_BHSD.transpose(1, 2).flatten(2))


class _TransformerBlock(nn.Module):
    """Attention and a two-layer MLP, each after RMS norm, with skip connections."""

    def __init__(self, channels: int, num_heads: int, hidden_channels: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(channels, eps=1e-6)
        self.attention = _Attention(channels, num_heads)
        self.network_norm = nn.RMSNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, hidden_channels, bias=False)
        self.project = nn.Linear(hidden_channels, channels, bias=False)

    def forward(self, x_BSC: Tensor, mask_BS: Tensor | None, rotation_SD: Tensor | None) -> Tensor:
        x_BSC = x_BSC + self.attention(self.attention_norm(x_BSC), mask_BS, rotation_SD)
        return x_BSC + self.project(F.silu(self.expand(self.network_norm(x_BSC))))


def _silenced(x_BCS: Tensor, mask_BS: Tensor | None) -> Tensor:
    """Zero the frames beyond an item's length, like the padding of a convolution."""
    return x_BCS if mask_BS is None else x_BCS.masked_fill(~mask_BS[:, None], 0)


def _rotation(num_frames: int, head_channels: int, like: Tensor) -> Tensor:
    """(S, D / 2) complex: rotation of each pair of channels at each frame (RoFormer, arXiv 2104.09864)."""
    rates_D = 10000 ** (-torch.arange(0, head_channels, 2, device=like.device, dtype=torch.float32) / head_channels)
    angles_SD = torch.arange(num_frames, device=like.device, dtype=torch.float32)[:, None] * rates_D
    return torch.polar(torch.ones_like(angles_SD), angles_SD)


def _rotated(heads_BHSD: Tensor, rotation_SD: Tensor) -> Tensor:
    pairs = torch.view_as_complex(heads_BHSD.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rotation_SD).flatten(-2).to(heads_BHSD.dtype)
