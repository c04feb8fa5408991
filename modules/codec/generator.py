"""CodecGenerator: encoder, quantizer and decoder as one network that satisfies the Codec protocol.

Shapes: B batch, T samples, S frames, C channels.
"""

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from modules.api import CodecFacts
from modules.codec.buckets import CALL_SECONDS, in_buckets
from modules.codec.parts.spectral import frame_mask
from modules.provenance import weights_hash


@dataclass
class Resynthesis:
    """Output of one pass through the codec.

    `audio_BT` at the output rate, `codes_BS` and `num_codes_B`. For losses: `latent_BSC`, the quantized vectors;
    `semantic_BSC`, the states of the encoder's frozen speech encoder, if any; `commitment_loss` (scalar), if the
    quantizer has a learned codebook.
    """

    audio_BT: Tensor
    codes_BS: Tensor
    num_codes_B: Tensor
    latent_BSC: Tensor
    semantic_BSC: Tensor | None = None
    commitment_loss: Tensor | None = None


class CodecGenerator(nn.Module):
    """Encoder, quantizer and decoder.

    Args:
        encoder: forward(audio_BT, num_samples_B) -> Encoded; has sample_rate, hop_length, channels, samples_per_call
            (number of samples to encode at once on a CPU; math.inf: any) and encode_settings.
        quantizer: forward(latent_BSC) -> Quantized; lookup(codes_BS) -> latent_BSC; has codebook_size, encode_settings
            and decode_settings.
        decoder: forward(latent_BSC, num_frames_B) -> audio_BT; has sample_rate, hop_length, channels, receptive_frames
            (math.inf: a tail is decoded from the first frame on) and decode_settings.

    encode_settings and decode_settings are strings, part of the fingerprints: what affects the codes, and the sound of
    codes, beside the weights; "" if nothing does.

    Raises:
        ValueError: A part lacks its settings or samples_per_call.
    """

    def __init__(self, encoder: nn.Module, quantizer: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        for part, name in (
            (encoder, "encode_settings"),
            (encoder, "samples_per_call"),
            (quantizer, "encode_settings"),
            (quantizer, "decode_settings"),
            (decoder, "decode_settings"),
        ):
            if inspect.getattr_static(part, name, None) is None:
                raise ValueError(f"Expected the codec's part {type(part).__name__} to have `{name}`, but got none.")
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.bridge = nn.Linear(encoder.channels, decoder.channels)
        self._keeps_codes = False

    def keep_codes(self) -> None:
        """Freeze encoder and quantizer, and with them codes and `fingerprint`: no gradient, always in evaluation
        mode."""
        self._keeps_codes = True
        for part in (self.encoder, self.quantizer):
            part.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self._keeps_codes:
            self.encoder.eval()
            self.quantizer.eval()
        return self

    @property
    def facts(self) -> CodecFacts:
        return CodecFacts(
            sample_rate=self.decoder.sample_rate,
            input_sample_rate=self.encoder.sample_rate,
            frame_rate=self.encoder.sample_rate / self.encoder.hop_length,
            codebook_size=self.quantizer.codebook_size,
            look_back_frames=self.decoder.receptive_frames,
        )

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determines the codes: weights and `encode_settings` of encoder and quantizer, without
        the quantizer's output side."""
        settings = [part.encode_settings for part in (self.encoder, self.quantizer)]
        encoding = {
            name: weight
            for name, weight in self.state_dict().items()
            if name.startswith(("encoder.", "quantizer.")) and "project_out" not in name
        }
        return weights_hash(encoding, "".join(settings))[:16]

    @property
    def decoder_fingerprint(self) -> str:
        """Hash of everything that determines the decoded audio: all weights, and `decode_settings` of quantizer and
        decoder."""
        settings = [part.decode_settings for part in (self.quantizer, self.decoder)]
        return weights_hash(self.state_dict(), "".join(settings))[:16]

    def forward(self, audio_BT: Tensor, num_samples_B: Tensor, semantic_BSC: Tensor | None = None) -> Resynthesis:
        """Reconstruct audio of the input's length, differentiable through the quantizer's straight-through estimator.

        `semantic_BSC`: precomputed states of the frozen speech encoder, if the data contains them (AudioBatch).
        """
        known = () if semantic_BSC is None else (semantic_BSC,)
        with torch.no_grad() if self._keeps_codes else nullcontext():
            encoded = self.encoder(audio_BT, num_samples_B, *known)
            quantized = self.quantizer(encoded.latent_BSC)
        decoded = self.decoder(self.bridge(quantized.latent_BSC), encoded.num_frames_B)
        num_samples = -(-audio_BT.shape[-1] * self.decoder.sample_rate // self.encoder.sample_rate)
        if decoded.shape[-1] < num_samples:  # encoders that run items by length return the longest item's frames
            decoded = F.pad(decoded, (0, num_samples - decoded.shape[-1]))
        return Resynthesis(
            decoded[:, :num_samples],
            quantized.codes_BS,
            encoded.num_frames_B,
            quantized.latent_BSC,
            encoded.semantic_BSC,
            _mean_over_frames(quantized.commitment_BS, encoded.num_frames_B),
        )

    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor]:
        if audio_BT.ndim != 2 or num_samples_B.shape != audio_BT.shape[:1]:
            raise ValueError(
                "Expected `audio_BT` of shape (B, T) and `num_samples_B` of shape (B,), "
                f"but got {tuple(audio_BT.shape)} and {tuple(num_samples_B.shape)}."
            )
        with parametrize.cached():  # weight norms are computed once for all buckets
            cost_of_call = CALL_SECONDS * self.encoder.sample_rate
            most_samples = self.encoder.samples_per_call
            return in_buckets(self._encode, audio_BT, num_samples_B, cost_of_call, most_samples)

    def decode(self, codes_BS: Tensor, num_codes_B: Tensor, start_frame: int = 0) -> Tensor:
        """See Codec.decode. The look-back is the decoder's receptive field, so a tail equals the end of the full
        decode."""
        first_frame = max(0, start_frame - self.decoder.receptive_frames)
        num_frames_B = (num_codes_B - first_frame).clamp(min=0)
        steps_per_call = CALL_SECONDS * self.facts.frame_rate
        (audio_BT,) = in_buckets(self._decode, codes_BS[:, first_frame:], num_frames_B, steps_per_call)
        return audio_BT[:, (start_frame - first_frame) * self.decoder.hop_length :]

    def _encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor]:
        encoded = self.encoder(audio_BT, num_samples_B)
        return self.quantizer(encoded.latent_BSC).codes_BS, encoded.num_frames_B

    def _decode(self, codes_BS: Tensor, num_frames_B: Tensor) -> tuple[Tensor]:
        return (self.decoder(self.bridge(self.quantizer.lookup(codes_BS)), num_frames_B),)

    def decode_flops(self, num_codes: int) -> float:
        """2 FLOPs per weight and frame; the inverse STFT is not counted (under 1%)."""
        parts = (self.bridge, self.quantizer, self.decoder)
        return 2.0 * num_codes * sum(weight.numel() for part in parts for weight in part.parameters())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "CodecGenerator":
        """nn.Module._apply, except that windows and filters, which are not in checkpoints, keep full precision."""
        exact = {
            (module, name): module._buffers[name]
            for module in self.modules()
            for name in module._non_persistent_buffers_set
            if module._buffers[name] is not None
        }
        super()._apply(fn, recurse)
        for (module, name), constant in exact.items():
            moved = module._buffers[name]
            if moved.dtype != constant.dtype:
                module._buffers[name] = constant.to(moved.device)
        return self


def _mean_over_frames(loss_BS: Tensor | None, num_frames_B: Tensor) -> Tensor | None:
    if loss_BS is None:
        return None
    mask_BS = frame_mask(num_frames_B, loss_BS.shape[1])
    return (loss_BS * mask_BS).sum() / mask_BS.sum().clamp(min=1)


def check_input_rate(generator: CodecGenerator, datamodule: object) -> None:
    """Raise ValueError if the data's sample rate differs from the codec's: it would learn wrong pitches."""
    rate = getattr(datamodule, "sample_rate", generator.facts.input_sample_rate)
    if rate != generator.facts.input_sample_rate:
        raise ValueError(
            f"Expected audio at the rate that the codec takes, {generator.facts.input_sample_rate} Hz, but got "
            f"`sample_rate`={rate} of the data."
        )
