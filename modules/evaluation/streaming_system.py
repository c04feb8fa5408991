"""The streaming decoder as a system of the codec table."""

from dataclasses import asdict

import torch

from modules.api import Audio, Codec
from modules.codec.streaming import DecodeWindow, EncodeWindow, decode_in_chunks, device_of, encode_in_windows
from modules.evaluation.bit_streams import Compressed, audio_like, codec_input
from modules.evaluation.opus_and_codec2 import compressed_codes
from modules.evaluation.systems import SystemFacts, facts_with


class StreamingResynthesiser:
    """A codec with streaming decoding, as a system of the codec's table, to measure the cost of chunk and context.

    Args:
        codec: The codec; None is the codec under test, which the evaluation sets with `with_codec`.
        decode_window: Chunk and context of the decoder.
        encode_window: If given, the recording is encoded in windows too.
        name: The row in tables; empty for "stream CHUNK/BACK/AHEAD".
    """

    def __init__(
        self,
        codec: Codec | None = None,
        decode_window: DecodeWindow = DecodeWindow(),  # noqa: B008 (frozen)
        encode_window: EncodeWindow | None = None,
        name: str = "",
    ) -> None:
        self.codec, self.decode_window, self.encode_window = codec, decode_window, encode_window
        self._name = name

    @property
    def facts(self) -> SystemFacts:
        """Latency is algorithmic: from the first code of a chunk to the last one that its first sample waits for. Only
        the name is known before there is a codec."""
        window = self.decode_window
        frames = (window.chunk_frames, window.look_back_frames, window.look_ahead_frames)
        name = self._name or f"stream {'/'.join(map(str, frames))}"
        if self.codec is None:
            return SystemFacts(name=name)
        windows = {"decode": self.decode_window, "encode": self.encode_window}
        return facts_with(
            self.codec,
            name,
            latency_seconds=window.latency_frames / self.codec.facts.frame_rate,
            settings={name: asdict(window) for name, window in windows.items() if window is not None},
        )

    def with_codec(self, codec: Codec) -> "StreamingResynthesiser":
        """A copy that uses `codec` if it has no codec of its own."""
        if self.codec is not None:
            return self
        return StreamingResynthesiser(codec, self.decode_window, self.encode_window, self._name)

    @property
    def model_hash(self) -> str:
        return self._codec.decoder_fingerprint

    def resynthesise(self, audio: Audio) -> tuple[Audio, float]:
        """The audio after the codec, and the bits of its codes. Raises ValueError for no samples."""
        compressed = self.compress(audio)
        return self.decompress(compressed), compressed.num_bits

    @torch.no_grad()
    def compress(self, audio: Audio) -> Compressed:
        samples_T = torch.from_numpy(codec_input(audio, self._codec.facts.input_sample_rate)).to(device_of(self._codec))
        if self.encode_window is not None:
            codes_S = torch.cat(list(encode_in_windows(self._codec, samples_T, self.encode_window)))
        else:
            num_samples_B = torch.tensor([samples_T.numel()], device=samples_T.device)
            codes_BS, num_codes_B = self._codec.encode(samples_T[None], num_samples_B)
            codes_S = codes_BS[0, : int(num_codes_B[0])]
        return compressed_codes(audio, codes_S, self._codec)

    def decompress(self, compressed: Compressed) -> Audio:
        chunks = decode_in_chunks(self._codec, compressed.payload, self.decode_window)
        decoded_T = torch.cat([chunk_T.float().cpu() for chunk_T in chunks])
        return audio_like(compressed, decoded_T.numpy(), self._codec.facts.sample_rate)

    @property
    def _codec(self) -> Codec:
        if self.codec is None:
            raise ValueError("Expected `codec` to be given, or put in by `with_codec`, but got None.")
        return self.codec
