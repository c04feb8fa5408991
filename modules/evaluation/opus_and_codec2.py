"""Resynthesisers: the baselines Opus and Codec2, and an adapter for any Codec.

All return audio at the rate and length of their input, aligned with it, and the bits of the whole stream (frames,
without a container). `compress` and `decompress` are the two halves, so that they can be timed separately.
Shapes: T audio samples, B batch, Q codebooks, S code frames.
"""

import io
import math
import shutil
import subprocess
from typing import Literal

import numpy as np
import torch

from modules.api import Audio, Codec
from modules.codec.streaming import device_of
from modules.evaluation.bit_streams import Compressed, audio_like, codec_input
from modules.evaluation.systems import SystemFacts, facts_with

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
OPUS_LIMITS = (6.0, 256.0)  # kbit/s for one channel
CODEC2_RATE = 8000
# Per mode: bits of a frame, its length in samples at 8 kHz (codec2.c of codec2 1.0.5), and the output delay in
# samples: the lag at which the envelopes (5 ms) of 20 recorded prompts and their resyntheses correlate best, summed
# over the prompts; STOI peaks within 10 samples of it.
CODEC2_MODES = {"700C": (28, 320, 258), "1300": (52, 320, 170), "3200": (64, 160, 156)}


class Opus:
    """Opus (RFC 6716) through the libopus in PyAV, tuned for speech, with a variable bit rate.

    The stream is written to Ogg in memory and read back, which trims the encoder's look-ahead (6.5 ms): the output is
    aligned to within two samples at 16 kHz. Other input rates than Opus's own are resampled.

    Args:
        kilobits_per_second: Target bit rate of the encoder, 6 to 256.
    """

    def __init__(self, kilobits_per_second: float) -> None:
        low, high = OPUS_LIMITS
        if not low <= kilobits_per_second <= high:
            raise ValueError(f"Expected `kilobits_per_second` in [{low:g}, {high:g}], but got {kilobits_per_second}.")
        self.kilobits_per_second = kilobits_per_second
        self.model_hash = ""

    @property
    def facts(self) -> SystemFacts:
        try:
            import av

            is_available = "libopus" in av.codecs_available
        except ImportError:
            is_available = False
        return SystemFacts(
            name=f"Opus {self.kilobits_per_second:g}k",
            requirement="" if is_available else "PyAV with libopus: pip install av",
            settings={"kilobits_per_second": self.kilobits_per_second},
        )

    def resynthesise(self, audio: Audio) -> tuple[Audio, float]:
        """The audio after Opus, and the bits of its packets. Raises ValueError for no samples, ImportError."""
        compressed = self.compress(audio)
        return self.decompress(compressed), compressed.num_bits

    def compress(self, audio: Audio) -> Compressed:
        if requirement := self.facts.requirement:
            raise ImportError(f"Expected {requirement}, but got no libopus encoder.")
        rate = next((rate for rate in OPUS_RATES if rate >= audio.sample_rate), OPUS_RATES[-1])
        stream, num_bits = self._encode(codec_input(audio, rate), rate)
        return Compressed(stream, num_bits, audio.samples_T.numel(), audio.sample_rate)

    def decompress(self, compressed: Compressed) -> Audio:
        return audio_like(compressed, *_decode_ogg(compressed.payload))

    def _encode(self, samples_T: np.ndarray, rate: int) -> tuple[io.BytesIO, float]:
        import av

        stream, num_bits = io.BytesIO(), 0
        with av.open(stream, "w", format="ogg") as container:
            encoder = container.add_stream("libopus", rate=rate, layout="mono", options={"application": "voip"})
            encoder.bit_rate = round(1000 * self.kilobits_per_second)
            frame = av.AudioFrame.from_ndarray(samples_T[None], format="flt", layout="mono")
            frame.sample_rate = rate
            for part in (frame, None):
                for packet in encoder.encode(part):
                    num_bits += 8 * packet.size
                    container.mux(packet)
        stream.seek(0)
        return stream, float(num_bits)


class Codec2:
    """Codec2 (Rowe), a vocoder for radio at 700 to 3200 bit/s and 8 kHz, through Debian's programs c2enc and c2dec.

    The delay of the vocoder is removed (CODEC2_MODES); it does not preserve phases, so waveforms still differ.

    Args:
        mode: The bit rate.
    """

    def __init__(self, mode: Literal["700C", "1300", "3200"]) -> None:
        if mode not in CODEC2_MODES:
            raise ValueError(f"Expected `mode` to be one of {sorted(CODEC2_MODES)}, but got {mode!r}.")
        self.mode = mode
        self.model_hash = ""

    @property
    def facts(self) -> SystemFacts:
        is_available = all(shutil.which(program) for program in ("c2enc", "c2dec"))
        return SystemFacts(
            name=f"Codec2 {self.mode}",
            requirement="" if is_available else "the programs c2enc and c2dec: apt install codec2",
            settings={"mode": self.mode},
        )

    def resynthesise(self, audio: Audio) -> tuple[Audio, float]:
        """The audio after Codec2, and the bits of its frames (the last one padded).

        Raises ValueError for no samples, FileNotFoundError without the programs, RuntimeError if they fail.
        """
        compressed = self.compress(audio)
        return self.decompress(compressed), compressed.num_bits

    def compress(self, audio: Audio) -> Compressed:
        if requirement := self.facts.requirement:
            raise FileNotFoundError(f"Expected {requirement}, but got none on the PATH.")
        bits_per_frame, frame_length, delay = CODEC2_MODES[self.mode]
        samples_T = codec_input(audio, CODEC2_RATE)
        num_frames = math.ceil((len(samples_T) + delay) / frame_length)  # so that the output includes the last samples
        samples_T = np.pad(samples_T, (0, num_frames * frame_length - len(samples_T)))
        pulses = np.round(samples_T * 32767).astype("<i2").tobytes()
        frames = _run("c2enc", self.mode, pulses)
        return Compressed(frames, float(num_frames * bits_per_frame), audio.samples_T.numel(), audio.sample_rate)

    def decompress(self, compressed: Compressed) -> Audio:
        decoded = _run("c2dec", self.mode, compressed.payload)
        heard_T = np.frombuffer(decoded, "<i2").astype(np.float32) / 32768
        return audio_like(compressed, heard_T[CODEC2_MODES[self.mode][2] :], CODEC2_RATE)


class CodecResynthesiser:
    """Adapts any Codec to a Resynthesiser, to compare another checkpoint with the one under test.

    Args:
        codec: A codec with one codebook: a code takes log2(codebook_size) bits. Input is resampled to its rate.
        name: Its row in tables.
    """

    def __init__(self, codec: Codec, name: str) -> None:
        self.codec, self._name = codec, name

    @property
    def facts(self) -> SystemFacts:
        return facts_with(self.codec, self._name)

    @property
    def model_hash(self) -> str:
        return self.codec.decoder_fingerprint

    def resynthesise(self, audio: Audio) -> tuple[Audio, float]:
        """The audio after the codec, and the bits of its codes. Raises ValueError for no samples."""
        compressed = self.compress(audio)
        return self.decompress(compressed), compressed.num_bits

    @torch.no_grad()
    def compress(self, audio: Audio) -> Compressed:
        samples_T = torch.from_numpy(codec_input(audio, self.codec.facts.input_sample_rate)).to(device_of(self.codec))
        codes_BS, num_codes_B = self.codec.encode(samples_T[None], torch.tensor([len(samples_T)]).to(samples_T.device))
        return compressed_codes(audio, codes_BS[0, : int(num_codes_B[0])], self.codec)

    @torch.no_grad()
    def decompress(self, compressed: Compressed) -> Audio:
        codes_S = compressed.payload
        num_codes_B = torch.tensor([codes_S.numel()], device=codes_S.device)
        decoded_T = self.codec.decode(codes_S[None], num_codes_B)[0].float().cpu().numpy()
        return audio_like(compressed, decoded_T, self.codec.facts.sample_rate)


def compressed_codes(audio: Audio, codes_S: torch.Tensor, codec: Codec) -> Compressed:
    """Convert the codes of one codebook to a stream of log2(codebook_size) bits each."""
    num_bits = codes_S.numel() * math.log2(codec.facts.codebook_size)
    return Compressed(codes_S, num_bits, audio.samples_T.numel(), audio.sample_rate, codes_S.cpu()[None])


def _decode_ogg(stream: io.BytesIO) -> tuple[np.ndarray, int]:
    """The one channel of an Ogg Opus stream, and its rate in Hz."""
    import av

    with av.open(stream) as container:
        frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
        return np.concatenate(frames).astype(np.float32), container.streams.audio[0].rate


def _run(program: str, mode: str, data: bytes) -> bytes:
    finished = subprocess.run([program, mode, "-", "-"], input=data, capture_output=True, check=False)
    if finished.returncode:
        message = " ".join(finished.stderr.decode(errors="replace").split())
        raise RuntimeError(f"Expected `{program} {mode}` to succeed, but got status {finished.returncode}: {message}")
    return finished.stdout
