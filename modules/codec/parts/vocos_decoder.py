"""VocosDecoder: one vector per frame to audio.

Shapes: B batch, S frames, C channels, F frequency bins, T samples.
"""

import torch
from torch import Tensor, nn

from modules.codec.parts.convnext import ConvNeXtStack
from modules.codec.parts.spectral import InverseSTFT, frame_mask
from modules.codec.settings import unusual


class VocosDecoder(nn.Module):
    """ConvNeXt trunk that predicts log-magnitude and phase, then the inverse STFT (Vocos, arXiv 2306.00814).

    Args:
        sample_rate: Sample rate of the output, Hz.
        hop_length: Samples per code.
        fft_size: Window of the inverse STFT, samples; a multiple of `hop_length`.
        channels, num_layers, hidden_channels: Sizes of the trunk.
    """

    def __init__(
        self,
        sample_rate: int,
        hop_length: int,
        fft_size: int = 1280,
        channels: int = 384,
        num_layers: int = 8,
        hidden_channels: int = 1152,
    ) -> None:
        super().__init__()
        self.sample_rate, self.hop_length, self.channels = sample_rate, hop_length, channels
        self.trunk = ConvNeXtStack(channels, channels, num_layers, hidden_channels)
        self.head = nn.Linear(channels, fft_size + 2)
        self.inverse_stft = InverseSTFT(fft_size, hop_length)
        self.receptive_frames = self.trunk.receptive_frames + fft_size // hop_length // 2

    @property
    def decode_settings(self) -> str:
        """Settings that affect the audio and differ from the default."""
        return unusual(self, sample_rate=16000, hop_length=320)

    def forward(self, latent_BSC: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return (B, S * hop_length)."""
        mask_BS = frame_mask(num_frames_B, latent_BSC.shape[1])
        log_magnitude, phase = self.head(self.trunk(latent_BSC, mask_BS)).float().chunk(2, dim=-1)
        spectrum_BSF = torch.polar(log_magnitude.exp().clamp(max=1e2), phase)
        return self.inverse_stft(spectrum_BSF, mask_BS)
