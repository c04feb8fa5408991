"""TransformersCodec: the implementations of EnCodec, DAC, Mimi and X-codec in transformers, for comparison.

Shapes: T audio samples, C channels, W windows of a recording, Q codebooks, S code frames.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.api import Audio
from modules.evaluation.bit_streams import Compressed, audio_like, codec_input
from modules.evaluation.systems import SystemFacts

KINDS = ("dac", "encodec", "mimi", "xcodec")
BITS_PER_SCALE = 32  # EnCodec at 48 kHz sends the loudness of each window as a float


@dataclass(frozen=True)
class WindowedCodes:
    """EnCodec's codes: one tensor (1, Q, S) per window and, where it normalises, the window's loudness."""

    windows: list[Tensor]
    scales: list[Tensor | None]


class TransformersCodec:
    """A codec of transformers as a Resynthesiser: EnCodec, DAC, Mimi or X-codec.

    Input is resampled to the codec's rate (and put on both channels of a stereo model, whose output is averaged); the
    output has the input's rate and length. Every code that is sent counts log2(codebook_size) bits, fewer codebooks
    fewer bits. X-codec2 and NeuCodec are Codecs of one codebook:
    `modules.evaluation.opus_and_codec2.CodecResynthesiser`.

    Args:
        model: A folder, or a name on the model hub ("facebook/encodec_24khz", "descript/dac_16khz", "kyutai/mimi").
        num_codebooks: Number of residual codebooks to use, from the first; 0 for all.
        name: The row in tables; empty for the last part of `model` and the codebooks.
        device: "auto" is CUDA if available.

    Raises (on first use):
        ValueError: The model is of another kind, or has fewer codebooks.
    """

    def __init__(self, model: str, num_codebooks: int = 0, name: str = "", device: str = "auto") -> None:
        if num_codebooks < 0:
            raise ValueError(f"Expected `num_codebooks` to be at least 0, but got {num_codebooks}.")
        self.model, self.num_codebooks, self.device = model, num_codebooks, device
        self._name = name

    @cached_property
    def facts(self) -> SystemFacts:
        """From the config only: the weights are not loaded."""
        config, total = self._config, self._total_codebooks
        if self.num_codebooks > total:
            raise ValueError(
                f"Expected `num_codebooks` to be at most {total}, which `{self.model}` has, but got "
                f"{self.num_codebooks}."
            )
        short = self.model.rstrip("/").rpartition("/")[2]
        hop_length = config.frame_size if config.model_type == "mimi" else config.hop_length
        num_codebooks = self.num_codebooks or total
        return SystemFacts(
            name=self._name or (f"{short} x{self.num_codebooks}" if self.num_codebooks else short),
            codebook_size=config.codebook_size,
            num_codebooks=num_codebooks,
            frame_rate=self.sample_rate / hop_length,
            settings={"model": self.model, "num_codebooks": num_codebooks},
        )

    @property
    def sample_rate(self) -> int:
        config = self._config
        return config.sample_rate if config.model_type == "xcodec" else config.sampling_rate

    @cached_property
    def model_hash(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self._network.state_dict().items()):
            bytes_N = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)  # numpy has no bfloat16
            digest.update(name.encode() + bytes_N.numpy().tobytes())
        return digest.hexdigest()

    def resynthesise(self, audio: Audio) -> tuple[Audio, float]:
        """The audio after the codec, and the bits of its codes. Raises ValueError for no samples."""
        compressed = self.compress(audio)
        return self.decompress(compressed), compressed.num_bits

    @torch.no_grad()
    def compress(self, audio: Audio) -> Compressed:
        samples_T = torch.from_numpy(codec_input(audio, self.sample_rate)).to(self._network.device)
        windowed = self._encode(samples_T[None, None])
        codes_QS = torch.cat([window[0] for window in windowed.windows], dim=-1).cpu()
        num_scales = sum(scale.numel() for scale in windowed.scales if scale is not None)
        num_bits = codes_QS.numel() * math.log2(self.facts.codebook_size) + BITS_PER_SCALE * num_scales
        return Compressed(windowed, num_bits, audio.samples_T.numel(), audio.sample_rate, codes_QS)

    @torch.no_grad()
    def decompress(self, compressed: Compressed) -> Audio:
        decoded_CT = self._decode(compressed.payload)[0].float().cpu()
        return audio_like(compressed, decoded_CT.mean(0).numpy(), self.sample_rate)

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(self.model)
        except (OSError, ValueError) as error:  # neither a folder nor on the hub, or of an unsupported type
            raise ValueError(
                f"Expected `model` to be a folder or a hub name of one of {', '.join(KINDS)}, but got `{self.model}`: "
                f"{str(error).splitlines()[0]}"
            ) from error
        if config.model_type not in KINDS:
            raise ValueError(
                f"Expected `model` to be one of {', '.join(KINDS)}, but got {config.model_type} in `{self.model}`. "
                "Codecs of one codebook (xcodec2, neucodec) are read by modules.codec.formats.checkpoints."
            )
        return config

    @cached_property
    def _network(self) -> Any:
        from transformers import AutoModel

        self._config  # noqa: B018 - reject other kinds of model before loading weights
        device = self.device if self.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        return AutoModel.from_pretrained(self.model, dtype=torch.float32).eval().to(device)

    @property
    def _total_codebooks(self) -> int:
        return self._config.n_codebooks if self._config.model_type == "dac" else self._config.num_quantizers

    def _bandwidth(self) -> float:
        """The smallest of the model's bandwidths (kbit/s) with enough codebooks; surplus ones are cut off."""
        facts = self.facts
        per_codebook = math.log2(facts.codebook_size) * self._config.frame_rate  # as in transformers
        bandwidths = sorted(self._config.target_bandwidths)
        return next(one for one in bandwidths if max(1, one * 1000 // per_codebook) >= facts.num_codebooks)

    def _encode(self, audio_1CT: Tensor) -> WindowedCodes:
        kind, network, num_codebooks = self._config.model_type, self._network, self.facts.num_codebooks
        if kind == "encodec":
            audio_1CT = audio_1CT.expand(-1, self._config.audio_channels, -1)
            encoded = network.encode(audio_1CT, bandwidth=self._bandwidth())
            windows = [codes[:, :num_codebooks] for codes in encoded.audio_codes]
            if encoded.last_frame_pad_length > 0:  # transformers pads the last window; padding is not transmitted
                windows[-1] = windows[-1][..., : -encoded.last_frame_pad_length]
            return WindowedCodes(windows, list(encoded.audio_scales))
        if kind == "mimi":
            codes = network.encode(audio_1CT, num_quantizers=num_codebooks).audio_codes
        else:  # whole frames only, as transformers' feature extractor pads
            audio_1CT = F.pad(audio_1CT, (0, -audio_1CT.shape[-1] % self._config.hop_length))
            if kind == "dac":
                codes = network.encode(audio_1CT, n_quantizers=num_codebooks).audio_codes
            else:
                codes = network.encode(audio_1CT, bandwidth=self._bandwidth()).audio_codes[:, :num_codebooks]
        return WindowedCodes([codes], [None])

    def _decode(self, codes: WindowedCodes) -> Tensor:
        """(1, C, T)."""
        network = self._network
        if self._config.model_type != "encodec":
            decoded = network.decode(audio_codes=codes.windows[0]).audio_values
            return decoded if decoded.ndim == 3 else decoded[:, None]
        num_frames = codes.windows[0].shape[-1]
        missing = num_frames - codes.windows[-1].shape[-1]
        stacked_W1QS = torch.stack([F.pad(window, (0, num_frames - window.shape[-1])) for window in codes.windows])
        return network.decode(stacked_W1QS, codes.scales, last_frame_pad_length=missing).audio_values
