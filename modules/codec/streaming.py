"""Codec streaming in bounded memory, for any Codec: decode as codes arrive, encode in overlapping windows.

A stream holds one window at a time. If the decoder's receptive field lies within look-back and look-ahead, the joined
chunks equal the offline decode; otherwise (full attention) each chunk is decoded from its window alone. Shapes: B
batch, T audio samples, S code frames.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from modules.api import Codec
from modules.batches import pad_rows


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
        first_chunks: Frames of the first chunks, where they differ from the window's: small ones are heard sooner.
        fade_frames: Frames at the start of a chunk that are cross-faded with the same frames of the decode before, as
            whose look-ahead they were decoded, so that no border clicks. Adds no latency.
        context_S: Codes before the stream's first, as left context; their audio is not returned.
    """

    def __init__(
        self,
        codec: Codec,
        window: DecodeWindow,
        first_chunks: Sequence[int] = (),
        fade_frames: int = 0,
        context_S: Tensor | None = None,
    ) -> None:
        if any(num_frames < 1 for num_frames in first_chunks):
            raise ValueError(f"Expected `first_chunks` to be at least 1 each, but got {tuple(first_chunks)}.")
        if not 0 <= fade_frames <= window.look_ahead_frames:
            raise ValueError(
                f"Expected `fade_frames` to be 0 to `look_ahead_frames`={window.look_ahead_frames}, "
                f"but got {fade_frames}."
            )
        self.codec, self.window, self.fade_frames = codec, window, fade_frames
        self.first_chunks = tuple(first_chunks)
        self.hop_length = whole_samples(codec.facts.sample_rate, codec.facts.frame_rate)
        context_S = torch.zeros(0) if context_S is None else context_S
        first = max(0, context_S.numel() - window.look_back_frames)
        self._context_S = context_S[first:].to(device_of(codec), torch.int64)
        self._begin()

    def _begin(self) -> None:
        self._codes_S = self._context_S
        self._num_back = self._context_S.numel()  # how many of the held codes are already decoded
        self._ahead_T: Tensor | None = None  # the decode before of the first `fade_frames` of the next chunk
        self._num_chunks = 0

    @property
    def _num_pending(self) -> int:
        return self._codes_S.numel() - self._num_back

    @property
    def _chunk_frames(self) -> int:
        """Frames of the next chunk."""
        return (*self.first_chunks, self.window.chunk_frames)[min(self._num_chunks, len(self.first_chunks))]

    @property
    def num_codes_needed(self) -> int:
        """Codes to be pushed until the next chunk is complete."""
        return self._chunk_frames + self.window.look_ahead_frames - self._num_pending

    def push(self, codes_S: Tensor) -> Iterator[Tensor]:
        """Add codes; yields (frames * hop_length,) samples for every chunk that is complete."""
        for part_S in codes_S.split(self.window.chunk_frames):
            self._codes_S = torch.cat([self._codes_S, part_S.to(self._codes_S)])
            while self.num_codes_needed <= 0:
                yield self._decode(self._chunk_frames)

    def flush(self) -> Iterator[Tensor]:
        """End the stream: yields the chunks that waited for more codes. The decoder can then take another stream."""
        while self._num_pending:
            yield self._decode(min(self._chunk_frames, self._num_pending))
        self._begin()

    @torch.no_grad()
    def _decode(self, num_frames: int) -> Tensor:
        stop = self._num_back + num_frames
        codes_BS = self._codes_S[None, : stop + self.window.look_ahead_frames]
        num_codes_B = torch.tensor([codes_BS.shape[1]], device=codes_BS.device)
        audio_BT = self.codec.decode(codes_BS, num_codes_B, start_frame=self._num_back)
        first = max(0, stop - self.window.look_back_frames)
        self._codes_S, self._num_back = self._codes_S[first:], stop - first
        self._num_chunks += 1
        return self._faded(audio_BT[0], num_frames * self.hop_length)

    def _faded(self, audio_T: Tensor, num_samples: int) -> Tensor:
        """The first `num_samples`, faded in from the decode before, and what follows them kept for the next fade."""
        if not self.fade_frames:
            return audio_T[:num_samples]
        chunk_T, before_T = audio_T[:num_samples], self._ahead_T
        self._ahead_T = audio_T[num_samples : num_samples + self.fade_frames * self.hop_length].clone()
        if before_T is None or not (length := min(before_T.numel(), num_samples)):
            return chunk_T
        # The first sample is all of the decode before: it continues the last one played.
        weight_T = torch.linspace(0, 1, length + 1, device=audio_T.device)[:-1]
        return torch.cat([torch.lerp(before_T[:length], chunk_T[:length], weight_T), chunk_T[length:]])


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
