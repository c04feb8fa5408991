"""Codec streaming in bounded memory, for any Codec: decode as codes arrive, encode in overlapping windows.

A stream holds one window at a time. If the decoder's receptive field lies within look-back and look-ahead, the joined
chunks equal the offline decode; otherwise (full attention) each chunk is decoded from its window alone. Shapes: B
batch, T audio samples, S code frames.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from modules.api import Codec, pad_rows


def device_of(codec: Codec) -> torch.device:
    """Where a codec that is a network runs; other Codecs take tensors on the CPU."""
    return next(codec.parameters()).device if isinstance(codec, nn.Module) else torch.device("cpu")


def _check_frames(frames: dict[str, int], positive: Sequence[str]) -> None:
    for name, value in frames.items():
        if value < (name in positive):
            raise ValueError(f"Expected `{name}` to be at least {int(name in positive)}, but got {value}.")


@dataclass(frozen=True)
class DecodeWindow:
    """Chunk size and context of streaming decoding: `chunk_frames` at a time, with codes before and after as
    context."""

    chunk_frames: int = 25
    look_back_frames: int = 50
    look_ahead_frames: int = 5

    def __post_init__(self) -> None:
        _check_frames(asdict(self), ["chunk_frames"])

    @property
    def latency_frames(self) -> int:
        """Number of codes required before the first sample of a chunk can be played."""
        return self.chunk_frames + self.look_ahead_frames


@dataclass(frozen=True)
class EncodeWindow:
    """Window and context of streaming encoding: `window_frames` codes from audio with `context_frames` more on each
    side.

    The codes equal those of the whole if the encoder's receptive field lies within the context. At least one frame: a
    codec may return one code more than the audio has frames, and the last window needs audio to compute it from.
    """

    window_frames: int = 500
    context_frames: int = 100

    def __post_init__(self) -> None:
        _check_frames(asdict(self), ["window_frames", "context_frames"])


class StreamingDecoder:
    """Decodes codes as they arrive. Holds at most look-back + chunk + look-ahead codes between calls.

    Args:
        codec: Any Codec; its frames must have a whole number of samples.
        window: Chunk and context.
    """

    def __init__(self, codec: Codec, window: DecodeWindow) -> None:
        self.codec, self.window = codec, window
        self.hop_length = whole_samples(codec.facts.sample_rate, codec.facts.frame_rate)
        self._codes_S = torch.zeros(0, dtype=torch.int64, device=device_of(codec))
        self._num_back = 0  # how many of the held codes are already decoded

    @property
    def _num_pending(self) -> int:
        return self._codes_S.numel() - self._num_back

    def push(self, codes_S: Tensor) -> Iterator[Tensor]:
        """Add codes; yields (chunk_frames * hop_length,) samples for every chunk that is complete."""
        for part_S in codes_S.split(self.window.chunk_frames):
            self._codes_S = torch.cat([self._codes_S, part_S.to(self._codes_S)])
            while self._num_pending >= self.window.latency_frames:
                yield self._decode(self.window.chunk_frames)

    def flush(self) -> Iterator[Tensor]:
        """End the stream: yields the chunks that waited for more codes. The decoder can then take another stream."""
        while self._num_pending:
            yield self._decode(min(self.window.chunk_frames, self._num_pending))
        self._codes_S, self._num_back = self._codes_S[:0], 0

    @torch.no_grad()
    def _decode(self, num_frames: int) -> Tensor:
        stop = self._num_back + num_frames
        codes_BS = self._codes_S[None, : stop + self.window.look_ahead_frames]
        num_codes_B = torch.tensor([codes_BS.shape[1]], device=codes_BS.device)
        audio_BT = self.codec.decode(codes_BS, num_codes_B, start_frame=self._num_back)
        first = max(0, stop - self.window.look_back_frames)
        self._codes_S, self._num_back = self._codes_S[first:], stop - first
        return audio_BT[0, : num_frames * self.hop_length]


class StreamingEncoder:
    """Encodes audio as it arrives. Holds at most window + 2 contexts of audio, and the input of one call.

    Args:
        codec: Any Codec; its frames must have a whole number of samples at the encoder's rate.
        window: Window and context.
    """

    def __init__(self, codec: Codec, window: EncodeWindow) -> None:
        self.codec, self.window = codec, window
        self.hop_length = whole_samples(codec.facts.input_sample_rate, codec.facts.frame_rate)
        self._audio_T = torch.zeros(0, device=device_of(codec))
        self._num_back = 0  # number of frames of the held audio whose codes were already returned

    def push(self, audio_T: Tensor) -> Iterator[Tensor]:
        """Add samples at the encoder's rate; yields (window_frames,) codes for every window that is complete."""
        for part_T in audio_T.split(self.window.window_frames * self.hop_length):
            self._audio_T = torch.cat([self._audio_T, part_T.to(self._audio_T.device)])
            while self._audio_T.numel() >= self._frames_needed * self.hop_length:
                codes_S = self._encode(self._audio_T[: self._frames_needed * self.hop_length])
                stop = self._num_back + self.window.window_frames
                yield codes_S[self._num_back : stop]
                first = max(0, stop - self.window.context_frames)
                self._audio_T, self._num_back = self._audio_T[first * self.hop_length :], stop - first

    def flush(self) -> Iterator[Tensor]:
        """End the stream: yields the last codes. The encoder can then take another stream."""
        if self._audio_T.numel():
            yield self._encode(self._audio_T)[self._num_back :]
        self._audio_T, self._num_back = self._audio_T[:0], 0

    @property
    def _frames_needed(self) -> int:
        return self._num_back + self.window.window_frames + self.window.context_frames

    @torch.no_grad()
    def _encode(self, audio_T: Tensor) -> Tensor:
        num_samples_B = torch.tensor([audio_T.numel()], device=audio_T.device)
        codes_BS, num_codes_B = self.codec.encode(audio_T[None], num_samples_B)
        return codes_BS[0, : int(num_codes_B[0])]


def decode_in_chunks(codec: Codec, codes_S: Iterable[Tensor] | Tensor, window: DecodeWindow) -> Iterator[Tensor]:
    """Decode codes (in one piece or in pieces), a chunk at a time."""
    decoder = StreamingDecoder(codec, window)
    for part_S in [codes_S] if isinstance(codes_S, Tensor) else codes_S:
        yield from decoder.push(part_S)
    yield from decoder.flush()


def encode_in_windows(codec: Codec, audio_T: Iterable[Tensor] | Tensor, window: EncodeWindow) -> Iterator[Tensor]:
    """Encode audio (in one piece or in pieces), a window at a time."""
    encoder = StreamingEncoder(codec, window)
    for part_T in [audio_T] if isinstance(audio_T, Tensor) else audio_T:
        yield from encoder.push(part_T)
    yield from encoder.flush()


def encode_batch_in_windows(
    codec: Codec, audio_BT: Tensor, num_samples_B: Tensor, window: EncodeWindow
) -> tuple[Tensor, Tensor]:
    """Codec.encode, item by item and window by window. Returns padded codes and their numbers."""
    items = [audio_T[:num_samples] for audio_T, num_samples in zip(audio_BT, num_samples_B.tolist(), strict=True)]
    codes_BS, num_codes_B = pad_rows([torch.cat(list(encode_in_windows(codec, one, window))) for one in items])
    return codes_BS, num_codes_B.to(codes_BS.device)


def whole_samples(sample_rate: int, frame_rate: float) -> int:
    """Samples per frame. Raises ValueError if that is not an integer, because windows could not be cut."""
    hop_length = round(sample_rate / frame_rate)
    if abs(hop_length * frame_rate - sample_rate) > 1e-6 * sample_rate:
        raise ValueError(
            f"Expected `frame_rate` to divide `sample_rate`={sample_rate}, but got {frame_rate}: a frame of "
            f"{sample_rate / frame_rate} samples."
        )
    return hop_length
