"""Framing, mel filters and the inverse STFT shared by the encoder, the decoder, the losses and the discriminators.

Shapes: B batch, T samples, S frames, F frequency bins, M mel bands.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def frame_mask(num_frames_B: Tensor, num_frames: int) -> Tensor:
    """Return a (B, num_frames) bool mask, true for the valid frames of an item."""
    return torch.arange(num_frames, device=num_frames_B.device) < num_frames_B[:, None]


def mel_filters(sample_rate: int, fft_size: int, num_mels: int) -> Tensor:
    """Return (F, M) triangular filters on Slaney's mel scale with equal areas (librosa's default), 0 Hz to Nyquist."""

    def to_mel(hertz: float) -> float:
        return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)

    mels = torch.linspace(0, to_mel(sample_rate / 2), num_mels + 2, dtype=torch.float64)
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * torch.exp((mels - 15) * math.log(6.4) / 27))
    bins = torch.linspace(0, sample_rate / 2, fft_size // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles_FM = torch.minimum(rising, falling).clamp(min=0) * (2 / (edges[2:] - edges[:-2]))
    return triangles_FM.float()


class Magnitude(nn.Module):
    """Magnitude spectrogram with zero padding at both ends, so that results do not depend on batching.

    Frame s is centred on the middle of samples [s * hop_length, (s + 1) * hop_length): ceil(T / hop_length) frames.
    """

    def __init__(self, fft_size: int, hop_length: int) -> None:
        super().__init__()
        if fft_size < hop_length or (fft_size - hop_length) % 2:
            raise ValueError(
                f"Expected `fft_size` - `hop_length` to be even and not negative, but got {fft_size} - {hop_length}."
            )
        self.fft_size, self.hop_length = fft_size, hop_length
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)

    def forward(self, audio_BT: Tensor) -> Tensor:
        """Return (B, F, S)."""
        edge = (self.fft_size - self.hop_length) // 2
        padded = F.pad(audio_BT, (edge, edge + (-audio_BT.shape[-1]) % self.hop_length))
        spectrum = torch.stft(
            padded, self.fft_size, self.hop_length, window=self.window, center=False, return_complex=True
        )
        # The floor keeps the gradient of the square root finite for silence.
        return (spectrum.real.square() + spectrum.imag.square()).clamp(min=1e-10).sqrt()


class CentredMagnitude(nn.Module):
    """Magnitude spectrogram as in X-codec2's discriminators: reflect padding, power clamped to [1e-7, 1e3]."""

    def __init__(self, fft_size: int, hop_length: int) -> None:
        super().__init__()
        self.fft_size, self.hop_length = fft_size, hop_length
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)

    def forward(self, audio_BT: Tensor) -> Tensor:
        """Return (B, F, 1 + T // hop_length)."""
        spectrum = torch.stft(audio_BT, self.fft_size, self.hop_length, window=self.window, return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square()).clamp(1e-7, 1e3).sqrt()


class LogMel(nn.Module):
    """Natural-log mel spectrogram, (B, M, S), floor 1e-5."""

    def __init__(self, sample_rate: int, fft_size: int, hop_length: int, num_mels: int) -> None:
        super().__init__()
        self.magnitude = Magnitude(fft_size, hop_length)
        self.register_buffer("filters_FM", mel_filters(sample_rate, fft_size, num_mels), persistent=False)

    def forward(self, audio_BT: Tensor) -> Tensor:
        with torch.autocast(audio_BT.device.type, enabled=False):  # bfloat16 is too coarse for spectra
            mel_BSM = self.magnitude(audio_BT.float()).transpose(1, 2) @ self.filters_FM
        return mel_BSM.transpose(1, 2).clamp(min=1e-5).log()


class InverseSTFT(nn.Module):
    """Inverse STFT with "same" padding: S frames give S * hop_length samples (as in Vocos, arXiv 2306.00814).

    Frames beyond an item's length are excluded from overlap-add and window envelope, so results do not depend on
    batching.
    """

    def __init__(self, fft_size: int, hop_length: int) -> None:
        super().__init__()
        if fft_size % hop_length or (fft_size - hop_length) % 2:
            raise ValueError(
                f"Expected `hop_length` to divide `fft_size`={fft_size} with an even rest, but got {hop_length}."
            )
        self.fft_size, self.hop_length = fft_size, hop_length
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)

    def forward(self, spectrum_BSF: Tensor, mask_BS: Tensor) -> Tensor:
        """Return (B, S * hop_length) from complex (B, S, F) and the mask of valid frames."""
        mask_BS1 = mask_BS[..., None].to(self.window.dtype)
        frames = torch.fft.irfft(spectrum_BSF, n=self.fft_size) * self.window * mask_BS1
        envelope = self._overlap_add(self.window.square() * mask_BS1)
        return self._overlap_add(frames) / envelope.clamp(min=1e-4)

    def _overlap_add(self, frames_BSN: Tensor) -> Tensor:
        batch, num_frames, _ = frames_BSN.shape
        num_parts, hop = self.fft_size // self.hop_length, self.hop_length
        parts = frames_BSN.view(batch, num_frames, num_parts, hop)
        total = sum(F.pad(parts[:, :, part], (0, 0, part, num_parts - 1 - part)) for part in range(num_parts))
        edge = (self.fft_size - hop) // 2
        return total.reshape(batch, -1)[:, edge : edge + num_frames * hop]
