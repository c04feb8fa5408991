"""Systems of the codec's table: the recording, the codec under test, and any Resynthesiser, run and timed in one way.

Shapes: B batch, T audio samples, Q codebooks, S code frames.
"""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from modules.api import Audio, Codec
from modules.members import check_members
from modules.provenance import weights_hash

RECORDING_BITS = 16


@dataclass(frozen=True, kw_only=True)
class SystemFacts:
    """Properties of a system that need no measurement; NaN if not applicable.

    `name` is its row in tables. `requirement`: what to install if it is not available on this machine, "" if it is.
    `latency_seconds` is the algorithmic latency: how long the first sample of a chunk waits for codes, NaN if it waits
    for the whole recording or is unknown. `settings` (JSON) stand in the evaluation card.
    """

    name: str
    requirement: str = ""
    codebook_size: float = math.nan
    num_codebooks: float = math.nan
    frame_rate: float = math.nan
    latency_seconds: float = math.nan
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        return self.num_codebooks * self.frame_rate


@runtime_checkable
class Resynthesiser(Protocol):
    """Encodes and decodes audio through a bit stream: this suite's codec, Opus, Codec2, other neural codecs.

    `model_hash` identifies its weights in the evaluation card; "" if it has none.
    """

    @property
    def facts(self) -> SystemFacts: ...
    @property
    def model_hash(self) -> str: ...
    def resynthesise(self, audio: Audio) -> tuple[Audio, float]:
        """Return the reconstructed audio and the size of the bit stream in bits."""
        ...


@runtime_checkable
class Compresses(Protocol):
    """Optional for a Resynthesiser: its two halves, which are then timed separately.

    The result of `compress` has `num_bits` and `codes_QS` (None if the stream is not codes).
    """

    def compress(self, audio: Audio) -> Any: ...
    def decompress(self, compressed: Any) -> Audio: ...


@runtime_checkable
class UsesCodecUnderTest(Protocol):
    """Optional for a Resynthesiser: `with_codec` returns a copy that runs the codec under test."""

    def with_codec(self, codec: Codec) -> Resynthesiser: ...


@dataclass(frozen=True)
class Heard:
    """A system's output for an utterance, its bits, and the wall seconds of both halves (NaN: not timed separately)."""

    audio: Audio
    num_bits: float
    encode_seconds: float = math.nan
    decode_seconds: float = math.nan
    codes_QS: np.ndarray | None = None


def hear(system: Resynthesiser, audio: Audio) -> Heard:
    """Run the system on one utterance alone. Resampling to and from its rate is included in the system's time."""
    if not isinstance(system, Compresses):
        return Heard(*system.resynthesise(audio))
    start = time.perf_counter()
    compressed = system.compress(audio)
    middle = time.perf_counter()
    heard = system.decompress(compressed)
    end = time.perf_counter()
    codes_QS = None if compressed.codes_QS is None else compressed.codes_QS.cpu().numpy()
    return Heard(heard, compressed.num_bits, middle - start, end - middle, codes_QS)


def facts_with(codec: Codec, name: str, **more: Any) -> SystemFacts:
    """Facts of a system that runs a Codec, which has one codebook. Raises ValueError if the codec lacks a member."""
    check_members(codec, Codec, "codec")
    layout = {"codebook_size": codec.facts.codebook_size, "num_codebooks": 1, "frame_rate": codec.facts.frame_rate}
    return SystemFacts(name=name, **layout, **more)


class Original:
    """The recording itself, as 16-bit PCM."""

    facts = SystemFacts(name="recording")
    model_hash = ""

    def resynthesise(self, audio: Audio) -> tuple[Audio, float]:
        return audio, float(RECORDING_BITS * audio.samples_T.numel())


@dataclass(frozen=True)
class CodecStream:
    """An utterance compressed by the codec under test: `codes_QS` on the CPU, and the input's properties."""

    codes_BS: Tensor
    num_codes_B: Tensor
    num_bits: float
    num_samples: int
    codes_QS: Tensor


class CodecUnderTest:
    """The module's codec as a Resynthesiser: input at `sample_rate`, output at the codec's own.

    Half-precision weights are converted to float32, because spectra and signals need the precision.

    Args:
        codec: The codec, on `device`.
        name: Its row in the table.
        sample_rate: Sample rate of the module's input, in Hz.
        device: Device of the module.
    """

    def __init__(self, codec: Codec, name: str, sample_rate: int, device: torch.device) -> None:
        self.codec, self.sample_rate, self.device = codec, sample_rate, device
        self.facts = facts_with(codec, name)
        weights = codec.parameters() if isinstance(codec, nn.Module) else ()
        is_half = any(one.dtype in (torch.bfloat16, torch.float16) for one in weights)
        self._computed = copy.deepcopy(codec).float() if is_half else codec

    @property
    def model_hash(self) -> str:
        return weights_hash(self.codec.state_dict())

    def resynthesise(self, audio: Audio) -> tuple[Audio, float]:
        stream = self.compress(audio)
        return self.decompress(stream), stream.num_bits

    def compress(self, audio: Audio) -> CodecStream:
        """Raises ValueError for audio at another rate."""
        if audio.sample_rate != self.sample_rate:
            raise ValueError(f"Expected `audio` at {self.sample_rate} Hz, but got {audio.sample_rate}.")
        num_samples = audio.samples_T.numel()
        lengths_B = torch.tensor([num_samples], device=self.device)
        codes_BS, num_codes_B = self._computed.encode(audio.samples_T[None].float().to(self.device), lengths_B)
        codes_BS = codes_BS[:, : int(num_codes_B[0])]
        num_bits = codes_BS.shape[1] * math.log2(self.codec.facts.codebook_size)
        return CodecStream(codes_BS, num_codes_B, num_bits, num_samples, codes_BS.cpu())

    def decompress(self, stream: CodecStream) -> Audio:
        decoded_BT = self._computed.decode(stream.codes_BS, stream.num_codes_B).float().cpu()
        length = round(stream.num_samples * self.codec.facts.sample_rate / self.sample_rate)
        return Audio(decoded_BT[0, :length], self.codec.facts.sample_rate)


def gathered_systems(under_test: CodecUnderTest, comparisons: Sequence[Resynthesiser]) -> list[Resynthesiser]:
    """The rows of the table: recording, codec under test, and the installed comparisons."""
    here = [one for one in comparisons if not one.facts.requirement]
    bound = [one.with_codec(under_test.codec) if isinstance(one, UsesCodecUnderTest) else one for one in here]
    return [Original(), under_test, *bound]


def public(value: object) -> dict[str, Any]:
    """The class and the public attributes of an object."""
    settings = {name: item for name, item in vars(value).items() if not name.startswith("_")}
    return {"class": type(value).__qualname__, **settings}
