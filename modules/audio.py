"""Reading, encoding and writing of audio files, and resampling.

Shapes: T audio samples, C channels.
"""

import io
import math
import os
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modules.api import Audio
from modules.atomic_file import write_whole

SYNTHETIC = "synthetic speech"  # comment in the metadata of generated speech
MAX_HOURS = 6  # of one file
TOO_LONG = f"longer than {MAX_HOURS} hours: it would fill the memory, cut it into parts"
MIN_SECONDS = 0.1  # of a clip that a model can score
BLOCK = 2**22  # samples per read: memory depends on the file's content, not on a damaged header


def read_audio(
    recording: Path | bytes, start: float = 0.0, end: float | None = None, channel: int | None = None
) -> Audio:
    """Read a recording, or the content of one, at its own rate: with libsndfile, or else with FFmpeg (PyAV: m4a, aac,
    webm, wma, video, FLAC without a sample count).

    Args:
        start, end: Seconds of a part; None: to the end.
        channel: The one to read, from 0; None: the mean of all.

    Raises FileNotFoundError, and ValueError if it has no audio, no such channel or more than MAX_HOURS; soundfile's own
    errors, which are RuntimeErrors, propagate.
    """
    import soundfile

    if isinstance(recording, Path) and not recording.is_file():
        raise FileNotFoundError(f"Expected a recording, but got no file at `{recording}`.")
    source: Any = io.BytesIO(recording) if isinstance(recording, bytes) else recording
    if isinstance(source, Path) and re.search("[\ud800-\udfff]", str(source)):
        source = os.fsencode(source)  # soundfile rejects non-UTF-8 names as text, but not as bytes
    try:
        stream = soundfile.SoundFile(source)
    except soundfile.LibsndfileError as error:
        try:
            return _read_with_ffmpeg(recording, start, end, channel)
        except (OSError, RuntimeError):
            raise error from None
        except ValueError as other:  # of ours, or FFmpeg's for what is no audio
            raise (error if type(other) is not ValueError else other) from None
    with stream:
        is_counted = 0 < stream.frames <= MAX_HOURS * 3600 * stream.samplerate
        if is_counted or (stream.frames and end is not None):
            # What libsndfile finds damaged stays so: FFmpeg would leave out the damaged part.
            return _read_with_libsndfile(stream, start, end, channel)
        empty = Audio(torch.zeros(0), stream.samplerate)
    return _read_with_ffmpeg(recording, start, end, channel, empty)  # the header lacks the count of samples, or lies


def message_of(error: BaseException) -> str:
    """The message of an error on one line, without addresses in memory: the same file gives the same message."""
    return " ".join(re.sub(r"<_io\.BytesIO object at 0x[0-9a-f]+>", "it", str(error)).split())


def _read_with_libsndfile(stream: Any, start: float, end: float | None, channel: int | None) -> Audio:
    sample_rate, num_channels = stream.samplerate, stream.channels
    first = round(start * sample_rate)
    num_left = stream.frames if end is None else max(0, round(end * sample_rate) - first)
    if first:
        stream.seek(min(first, stream.frames))
    blocks = [np.zeros((0, num_channels), np.float32)]
    while num_left > 0:
        size = min(BLOCK, num_left)
        blocks.append(stream.read(size, dtype="float32", always_2d=True))
        num_left -= len(blocks[-1])
        if len(blocks[-1]) < size:
            break
    samples_TC = blocks[1] if len(blocks) == 2 else np.concatenate(blocks)
    return Audio(torch.from_numpy(np.ascontiguousarray(_one_channel(samples_TC.T, channel))), sample_rate)


def _one_channel(samples_CT: np.ndarray, channel: int | None) -> np.ndarray:
    """Return (T,): a channel, or the mean of all. Raises ValueError if there is no such channel."""
    if channel is None:
        return samples_CT[0] if len(samples_CT) == 1 else samples_CT.mean(axis=0, dtype=np.float32)
    if not 0 <= channel < len(samples_CT):
        raise ValueError(f"no channel {channel}: the recording has {len(samples_CT)}")
    return samples_CT[channel]


def _read_with_ffmpeg(
    recording: Path | bytes, start: float, end: float | None, channel: int | None, empty: Audio | None = None
) -> Audio:
    """The first audio stream of any file that FFmpeg decodes. `empty`: returned if there is none."""
    import av

    source: Any = io.BytesIO(recording) if isinstance(recording, bytes) else str(recording)
    blocks: list[np.ndarray] = []
    num_samples = 0
    with av.open(source, mode="r") as container:
        if not container.streams.audio:
            if empty is not None:
                return empty
            raise ValueError("no audio stream")
        stream = container.streams.audio[0]
        sample_rate = stream.rate
        planar = av.AudioResampler(format="fltp", layout=stream.layout, rate=sample_rate)
        last = math.inf if end is None else round(end * sample_rate)
        for frame in container.decode(stream):
            for part in planar.resample(frame):
                blocks.append(_one_channel(part.to_ndarray(), channel))
                num_samples += len(blocks[-1])
            if num_samples >= last:
                break
            if end is None and num_samples > MAX_HOURS * 3600 * sample_rate:
                raise ValueError(TOO_LONG)
    samples_T = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    stop = None if end is None else round(end * sample_rate)
    return Audio(torch.from_numpy(samples_T[round(start * sample_rate) : stop].copy()), sample_rate)


def checked(audio: Audio | None) -> Audio:
    """Return the audio; raises ValueError if it is too short or not finite, so that no model can score it."""
    if audio is None or audio.seconds < MIN_SECONDS:
        seconds = 0.0 if audio is None else audio.seconds
        raise ValueError(f"Expected `audio` of at least {MIN_SECONDS} s, but got {seconds:.3f} s.")
    if not bool(torch.isfinite(audio.samples_T).all()):
        raise ValueError("Expected `audio` to be finite, but got NaN or infinity in it.")
    return audio


def resampled(audio: Audio, sample_rate: int) -> np.ndarray:
    """Return (T,) float32, contiguous, at `sample_rate` Hz (soxr, band-limited). Not clipped: it may exceed [-1, 1]."""
    samples_T = np.ascontiguousarray(audio.samples_T.detach().float().cpu().numpy())
    if audio.sample_rate == sample_rate:
        return samples_T
    import soxr

    return soxr.resample(samples_T, audio.sample_rate, sample_rate).astype(np.float32, copy=False)


def encoded(audio: Audio, audio_format: str, comment: str = "") -> bytes:
    """Return the content of an audio file: wav or flac (16 bit), or ogg (Vorbis), with a comment in its metadata.
    Samples beyond [-1, 1] are clipped. The same samples give the same bytes."""
    import soundfile

    samples_T = audio.samples_T.detach().float().cpu().numpy()  # libsndfile clips what it writes as integers
    if audio_format == "ogg":
        samples_T = np.clip(samples_T, -1, 1)
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", audio.sample_rate, 1, format=audio_format.upper()) as file:
        if comment:
            file.comment = comment
        # libsndfile's Vorbis may crash on long writes.
        size = audio.sample_rate if audio_format == "ogg" else max(1, len(samples_T))
        for start in range(0, len(samples_T), size):
            file.write(samples_T[start : start + size])
    return _without_serial(stream.getvalue()) if audio_format == "ogg" else stream.getvalue()


REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _without_serial(content: bytes) -> bytes:
    """An Ogg file with the serial number 0 in place of libsndfile's random one (RFC 3533, section 6)."""
    pages, start = bytearray(content), 0
    while start < len(pages):
        num_segments = pages[start + 26]
        end = start + 27 + num_segments + sum(pages[start + 27 : start + 27 + num_segments])
        pages[start + 14 : start + 18] = bytes(4)
        pages[start + 22 : start + 26] = bytes(4)
        # Ogg's checksum is zlib's with the bits of every byte and of the result reversed, from 0, not inverted.
        checksum = zlib.crc32(pages[start:end].translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        pages[start + 22 : start + 26] = checksum.to_bytes(4, "big").translate(REVERSED)
        start = end
    return bytes(pages)


def write_wav(audio: Audio, path: Path, comment: str = "") -> None:
    """Write a 16-bit wav file atomically, with a comment in its metadata. Raises ValueError for NaN or infinity."""
    if not bool(audio.samples_T.isfinite().all()):
        raise ValueError(f"Expected the codec to decode finite audio, but got NaN or infinity for `{path}`.")
    write_whole(path, encoded(audio, "wav", comment))
