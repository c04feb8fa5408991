"""VocosDecoder: one vector per frame to audio.

Shapes: B batch, S frames (codes, then frames of the trunk), C channels, F frequency bins, T samples.
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
        fft_size: Window of the inverse STFT, samples; a multiple of `hop_length / frames_per_code`.
        frames_per_code: Frames of the trunk and of the inverse STFT per code; must divide `hop_length`.
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
        frames_per_code: int = 1,
    ) -> None:
        super().__init__()
        if hop_length % frames_per_code:
            raise ValueError(
                f"Expected `frames_per_code` to divide `hop_length`={hop_length}, but got {frames_per_code}."
            )
        self.sample_rate, self.hop_length, self.channels = sample_rate, hop_length, channels
        self.frames_per_code = frames_per_code
        self.expand = nn.Linear(channels, channels * frames_per_code) if frames_per_code > 1 else nn.Identity()
        self.trunk = ConvNeXtStack(channels, channels, num_layers, hidden_channels)
        self.head = nn.Linear(channels, fft_size + 2)
        frame_length = hop_length // frames_per_code
        self.inverse_stft = InverseSTFT(fft_size, frame_length)
        self.receptive_frames = -(-(self.trunk.receptive_frames + fft_size // frame_length // 2) // frames_per_code)

    @property
    def decode_settings(self) -> str:
        """Settings that affect the audio and differ from the default."""
        return unusual(self, sample_rate=16000, hop_length=320, frames_per_code=1)

    def forward(self, latent_BSC: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return (B, S * hop_length)."""
        latent_BSC = self.expand(latent_BSC).unflatten(-1, (self.frames_per_code, self.channels)).flatten(1, 2)
        mask_BS = frame_mask(num_frames_B * self.frames_per_code, latent_BSC.shape[1])
        log_magnitude, phase = self.head(self.trunk(latent_BSC, mask_BS)).float().chunk(2, dim=-1)
        spectrum_BSF = torch.polar(log_magnitude.exp().clamp(max=1e2), phase)
        return self.inverse_stft(spectrum_BSF, mask_BS)
