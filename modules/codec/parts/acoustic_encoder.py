"""AcousticEncoder: strided convolutions with alias-free SnakeBeta, the encoder of BigCodec (arXiv 2409.05377).

Shapes: B batch, T samples, S frames, C channels.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from modules.codec.parts.alias_free_snake import AliasFreeSnake
from modules.codec.parts.spectral import frame_mask
from modules.codec.parts.spectral_encoder import Encoded
from modules.codec.settings import unusual

DILATIONS = 1, 3, 9
LARGEST_TENSOR = 2**25  # bytes: glibc returns larger blocks at once, and the kernel then clears pages at each layer


class AcousticEncoder(nn.Module):
    """AcousticEncoder of X-codec2 (with the default numbers): waveform to one vector per frame.

    Results do not depend on batching: at every layer, samples beyond an item's length act as the zero padding and the
    repeated edge of a single item. Items are first zero-padded to whole frames.

    Args:
        sample_rate: Sample rate of the input, Hz.
        strides: Strides of the blocks; their product is the hop length in samples.
        base_channels: Width before the first block; each block doubles it.
        channels: Width of the output.
        weight_norm: Use weight normalisation (arXiv 1602.07868), as in training. Off for weights that are already
            folded.
        compile_activations: Without CUDA, compile the activations on the first call: halves their time, and takes about
            a minute once. Needs a C++ compiler. On CUDA they are a Triton kernel anyway.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        strides: Sequence[int] = (2, 2, 4, 4, 5),
        base_channels: int = 48,
        channels: int = 1024,
        weight_norm: bool = True,
        compile_activations: bool = False,
    ) -> None:
        super().__init__()
        self.sample_rate, self.strides, self.channels = sample_rate, tuple(strides), channels
        self.hop_length = math.prod(strides)
        self.base_channels, self.weight_norm = base_channels, weight_norm
        widths = [base_channels * 2**number for number in range(len(strides) + 1)]
        self.input_convolution = nn.Conv1d(1, base_channels, 7, padding=3)
        self.blocks = nn.ModuleList(
            _Block(before, after, stride)
            for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.final_activation = AliasFreeSnake(widths[-1])
        self.final_convolution = nn.Conv1d(widths[-1], channels, 3, padding=1)
        if weight_norm:
            for convolution in [module for module in self.modules() if isinstance(module, nn.Conv1d)]:
                parametrizations.weight_norm(convolution)
        for activation in [module for module in self.modules() if isinstance(module, AliasFreeSnake)]:
            activation.compiled = compile_activations

    @property
    def samples_per_call(self) -> int:
        """Number of samples to encode at once on a CPU; the first activations, at twice the rate, are the largest
        tensors."""
        return LARGEST_TENSOR // (4 * 2 * self.base_channels)

    @property
    def encode_settings(self) -> str:
        """Settings that affect the latents and differ from the default. The strides can be read from the kernels'
        shapes."""
        return unusual(self, sample_rate=16000)

    def forward(self, audio_BT: Tensor, num_samples_B: Tensor) -> Encoded:
        """Return (B, S, C) and the number of frames of each item, ceil(num_samples / hop_length)."""
        num_frames_B = -(-num_samples_B // self.hop_length)
        audible = audio_BT * frame_mask(num_samples_B, audio_BT.shape[-1])
        audible = F.pad(audible, (0, (-audible.shape[-1]) % self.hop_length))
        lengths_B = unequal_lengths(num_frames_B * self.hop_length, audible.shape[-1])
        x_BCT = self.input_convolution(audible[:, None])
        for block in self.blocks:
            x_BCT = block(x_BCT, lengths_B)
            lengths_B = None if lengths_B is None else lengths_B // block.stride
        latent_BCS = self.final_convolution(self.final_activation(x_BCT, lengths_B))
        return Encoded(latent_BCS.transpose(1, 2), num_frames_B)


def unequal_lengths(lengths_B: Tensor, length: int) -> Tensor | None:
    """Return None if all items fill `length` and this can be checked for free, i.e. on the CPU; else `lengths_B`.

    On other devices the check would cost a synchronisation, and under torch.compile a graph break.
    """
    if lengths_B.device.type != "cpu" or torch.compiler.is_compiling():
        return lengths_B
    return None if bool((lengths_B == length).all()) else lengths_B


class _ResidualUnit(nn.Module):
    """Dilated and pointwise convolution, each after an activation, with a skip connection."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.activation1 = AliasFreeSnake(channels)
        self.convolution1 = nn.Conv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation)
        self.activation2 = AliasFreeSnake(channels)
        self.convolution2 = nn.Conv1d(channels, channels, 1)

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None) -> Tensor:
        y_BCT = self.convolution1(self.activation1(x_BCT, lengths_B))
        return x_BCT + self.convolution2(self.activation2(y_BCT, lengths_B))


class _Block(nn.Module):
    """Three residual units, then a strided convolution that doubles the width."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.units = nn.ModuleList(_ResidualUnit(in_channels, dilation) for dilation in DILATIONS)
        self.activation = AliasFreeSnake(in_channels)
        self.convolution = nn.Conv1d(in_channels, out_channels, 2 * stride, stride, padding=math.ceil(stride / 2))

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None) -> Tensor:
        for unit in self.units:
            x_BCT = unit(x_BCT, lengths_B)
        return self.convolution(self.activation(x_BCT, lengths_B))
