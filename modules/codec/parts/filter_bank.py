"""KaldiFilterBank: the log-mel input of w2v-BERT 2.0, batched, in torch.

Shapes: B batch, T samples, W mel windows, S frames, F frequency bins, M mel bands, N samples of a window.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.codec.parts.spectral import frame_mask
from modules.codec.settings import unusual

WINDOW_LENGTH, WINDOW_SHIFT, FFT_SIZE = 400, 160, 512  # 25 ms every 10 ms at 16 kHz
PREEMPHASIS, LOWEST_FREQUENCY, FLOOR = 0.97, 20.0, 1.192092955078125e-07


class KaldiFilterBank(nn.Module):
    """Kaldi's log-mel energies, normalised per band over the clip, two windows per frame: 50 frames/s of 160 values.

    Equal to transformers' SeamlessM4TFeatureExtractor for each item of a padded batch. Computed in float64, so that
    neither batching nor the device moves a code across a threshold.

    Args:
        edge_padding: Zeros before and after each item, samples: 160 in X-codec2, so that n samples give n / 320 frames;
            0 in NeuCodec, which gives one frame fewer.
        num_mels: Number of mel bands between 20 Hz and 8 kHz.
        num_stacked: Windows per frame.
    """

    sample_rate = 16000
    masks_padding = True

    def __init__(self, edge_padding: int = 160, num_mels: int = 80, num_stacked: int = 2) -> None:
        super().__init__()
        self.edge_padding, self.num_mels, self.num_stacked = edge_padding, num_mels, num_stacked
        # No buffers: casting the codec to another precision must not round them.
        self.window, self.filters_FM = _povey_window(), kaldi_mel_filters(self.sample_rate, num_mels)

    @property
    def encode_settings(self) -> str:
        """Settings that affect the features."""
        return f"edge_padding={self.edge_padding}{unusual(self, num_mels=80, num_stacked=2)}"

    def forward(self, audio_BT: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, S, num_stacked * M) float32, zero beyond an item's frames, and the number of frames of each
        item."""
        num_windows_B = (num_samples_B + 2 * self.edge_padding - WINDOW_LENGTH) // WINDOW_SHIFT + 1
        energies_BWM = self._energies(audio_BT * frame_mask(num_samples_B, audio_BT.shape[-1]))
        features_BWM = _normalised(energies_BWM, num_windows_B)
        num_frames = features_BWM.shape[1] // self.num_stacked
        stacked = features_BWM[:, : num_frames * self.num_stacked].reshape(len(audio_BT), num_frames, -1)
        num_frames_B = (num_windows_B // self.num_stacked).clamp(min=0)
        return (stacked * frame_mask(num_frames_B, num_frames)[..., None]).float(), num_frames_B

    def _energies(self, audio_BT: Tensor) -> Tensor:
        """Return (B, W, M) log-mel energies; at least one frame for any T."""
        self.window, self.filters_FM = (constant.to(audio_BT.device) for constant in (self.window, self.filters_FM))
        shortest = WINDOW_LENGTH + WINDOW_SHIFT * (self.num_stacked - 1)
        missing = max(0, shortest - audio_BT.shape[-1] - 2 * self.edge_padding)
        padded = F.pad(audio_BT.double() * 2**15, (self.edge_padding, self.edge_padding + missing))
        windows_BWN = padded.unfold(-1, WINDOW_LENGTH, WINDOW_SHIFT)
        windows_BWN = windows_BWN - windows_BWN.mean(-1, keepdim=True)
        previous = torch.cat([windows_BWN[..., :1], windows_BWN[..., :-1]], dim=-1)
        spectrum_BWF = torch.fft.rfft((windows_BWN - PREEMPHASIS * previous) * self.window, FFT_SIZE)
        power_BWF = spectrum_BWF.real.square() + spectrum_BWF.imag.square()
        return (power_BWF @ self.filters_FM).clamp(min=FLOOR).log()


def kaldi_mel_filters(sample_rate: int, num_mels: int) -> Tensor:
    """Return (F, M) float64 triangular filters, linear on the mel scale 1127 ln(1 + f / 700), from 20 Hz to Nyquist."""

    def to_mel(hertz: Tensor) -> Tensor:
        return 1127 * torch.log1p(hertz / 700)

    exact = {"dtype": torch.float64, "device": "cpu"}
    ends = to_mel(torch.tensor([LOWEST_FREQUENCY, sample_rate / 2], **exact))
    edges = torch.linspace(0, 1, num_mels + 2, **exact) * (ends[1] - ends[0]) + ends[0]
    bins = to_mel(torch.arange(FFT_SIZE // 2 + 1, **exact) * sample_rate / FFT_SIZE)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


def _povey_window() -> Tensor:
    return torch.hann_window(WINDOW_LENGTH, periodic=False, dtype=torch.float64, device="cpu").pow(0.85)


def _normalised(energies_BWM: Tensor, num_windows_B: Tensor) -> Tensor:
    """Normalise each band to mean 0 and variance 1 (unbiased) over the valid windows of an item."""
    mask_BW1 = frame_mask(num_windows_B, energies_BWM.shape[1])[..., None]
    count_B11 = num_windows_B[:, None, None]
    mean = (energies_BWM * mask_BW1).sum(1, keepdim=True) / count_B11.clamp(min=1)
    centred = (energies_BWM - mean) * mask_BW1
    variance = centred.square().sum(1, keepdim=True) / (count_B11 - 1).clamp(min=1)
    return centred / (variance + 1e-7).sqrt()
