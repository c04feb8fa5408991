"""CodecGenerator: encoder, quantizer and decoder as one network that satisfies the Codec protocol.

Shapes: B batch, T samples, S frames, C channels.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from modules.codec.quantizer import Quantized


@dataclass
class Resynthesis:
    """What one pass through the codec gives: `audio_BT`, `codes_BS`, `num_codes_B`."""

    audio_BT: Tensor
    codes_BS: Tensor
    num_codes_B: Tensor


class CodecGenerator(nn.Module):
    """Encoder, quantizer, decoder.

    Args:
        encoder: forward(audio_BT, num_samples_B) -> (latent_BSC, num_frames_B); has sample_rate, hop_length, channels.
        quantizer: forward(latent_BSC) -> Quantized; lookup(codes_BS) -> latent_BSC; has codebook_size.
        decoder: forward(latent_BSC, num_frames_B) -> audio_BT; has sample_rate, hop_length, channels, receptive_frames.
    """

    def __init__(self, encoder: nn.Module, quantizer: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.bridge = nn.Linear(encoder.channels, decoder.channels)

    @property
    def sample_rate(self) -> int:
        return self.decoder.sample_rate

    @property
    def frame_rate(self) -> float:
        return self.encoder.sample_rate / self.encoder.hop_length

    @property
    def codebook_size(self) -> int:
        return self.quantizer.codebook_size

    @property
    def fingerprint(self) -> str:
        """Hash of what decides the codes: the weights of the encoder and the quantizer's input side."""
        return self._weights_hash(
            lambda name: name.startswith(("encoder.", "quantizer.")) and "project_out" not in name
        )

    @property
    def decoder_fingerprint(self) -> str:
        """Hash of all weights: what decides how codes sound."""
        return self._weights_hash(lambda name: True)

    def forward(self, audio_BT: Tensor, num_samples_B: Tensor) -> Resynthesis:
        """Audio of the same length as the input, differentiable through the quantizer's straight-through estimator."""
        quantized, num_codes_B = self._quantize(audio_BT, num_samples_B)
        decoded = self.decoder(self.bridge(quantized.latent_BSC), num_codes_B)
        return Resynthesis(decoded[:, : audio_BT.shape[-1]], quantized.codes_BS, num_codes_B)

    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor]:
        if audio_BT.ndim != 2 or num_samples_B.shape != audio_BT.shape[:1]:
            raise ValueError(
                "Expected `audio_BT` of shape (B, T) and `num_samples_B` of shape (B,), "
                f"but got {tuple(audio_BT.shape)} and {tuple(num_samples_B.shape)}."
            )
        quantized, num_codes_B = self._quantize(audio_BT, num_samples_B)
        return quantized.codes_BS, num_codes_B

    def decode(self, codes_BS: Tensor, num_codes_B: Tensor, start_frame: int = 0) -> Tensor:
        """As Codec.decode. The look-back is the decoder's receptive field, so a tail equals the end of the whole."""
        first_frame = max(0, start_frame - self.decoder.receptive_frames)
        latent_BSC = self.bridge(self.quantizer.lookup(codes_BS[:, first_frame:]))
        audio_BT = self.decoder(latent_BSC, (num_codes_B - first_frame).clamp(min=0))
        return audio_BT[:, (start_frame - first_frame) * self.decoder.hop_length :]

    def decode_flops(self, num_codes: int) -> float:
        """2 FLOPs per weight and frame; the inverse STFT is left out (under 1%)."""
        parts = (self.bridge, self.quantizer, self.decoder)
        return 2.0 * num_codes * sum(weight.numel() for part in parts for weight in part.parameters())

    def _weights_hash(self, covers: Callable[[str], bool]) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            if covers(name):
                digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _quantize(self, audio_BT: Tensor, num_samples_B: Tensor) -> tuple[Quantized, Tensor]:
        latent_BSC, num_codes_B = self.encoder(audio_BT, num_samples_B)
        return self.quantizer(latent_BSC), num_codes_B
