"""Acoustic encoders: audio to one vector per frame.

Shapes: B batch, T samples, S frames, C channels.
"""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from modules.codec.parts.convnext import ConvNeXtStack
from modules.codec.parts.spectral import LogMel, frame_mask
from modules.codec.settings import unusual


@dataclass
class Encoded:
    """Output of every encoder: `latent_BSC`, `num_frames_B`, and `semantic_BSC`, the states of its frozen speech
    encoder, if any: the target of the semantic loss."""

    latent_BSC: Tensor
    num_frames_B: Tensor
    semantic_BSC: Tensor | None = None


class SpectralEncoder(nn.Module):
    """Log-mel frames, several per code, through ConvNeXt blocks: cheap enough for a CPU.

    Args:
        sample_rate: Sample rate of the input, Hz.
        hop_length: Samples per code.
        fft_size: Window of the mel analysis, samples.
        num_mels: Mel bands.
        mels_per_code: Mel frames stacked into one code frame; must divide `hop_length`.
        channels, num_layers, hidden_channels: Sizes of the ConvNeXt trunk.
    """

    samples_per_call = math.inf

    def __init__(
        self,
        sample_rate: int,
        hop_length: int,
        fft_size: int = 1024,
        num_mels: int = 80,
        mels_per_code: int = 2,
        channels: int = 256,
        num_layers: int = 4,
        hidden_channels: int = 768,
    ) -> None:
        super().__init__()
        if hop_length % mels_per_code:
            raise ValueError(f"Expected `mels_per_code` to divide `hop_length`={hop_length}, but got {mels_per_code}.")
        self.sample_rate, self.hop_length, self.channels = sample_rate, hop_length, channels
        self.mels_per_code, self.fft_size = mels_per_code, fft_size
        self.mel = LogMel(sample_rate, fft_size, hop_length // mels_per_code, num_mels)
        self.trunk = ConvNeXtStack(num_mels * mels_per_code, channels, num_layers, hidden_channels)

    @property
    def encode_settings(self) -> str:
        """Settings that affect the codes and differ from the default."""
        return unusual(self, sample_rate=16000, hop_length=320, fft_size=1024, mels_per_code=2)

    def forward(self, audio_BT: Tensor, num_samples_B: Tensor) -> Encoded:
        """Return (B, S, C) and the number of frames of each item, ceil(num_samples / hop_length)."""
        audible = audio_BT * frame_mask(num_samples_B, audio_BT.shape[-1])
        audible = F.pad(audible, (0, (-audible.shape[-1]) % self.hop_length))
        mel_BMS = (self.mel(audible) + 5) / 3  # about zero mean and unit variance for speech
        batch, _, num_mel_frames = mel_BMS.shape
        stacked = mel_BMS.transpose(1, 2).reshape(batch, num_mel_frames // self.mels_per_code, -1)
        num_frames_B = -(-num_samples_B // self.hop_length)
        return Encoded(self.trunk(stacked, frame_mask(num_frames_B, stacked.shape[1])), num_frames_B)
