"""Reading, encoding and writing of audio files, and resampling.

Shapes: T audio samples, C channels.
"""

import io
import os
import re
from pathlib import Path

import numpy as np
import torch

from modules.api import Audio
from modules.atomic_file import write_whole

SYNTHETIC = "synthetic speech"  # comment in the metadata of generated speech
BLOCK = 2**22  # samples per read: memory depends on the file's content, not on a damaged header


def read_audio(path: Path) -> Audio:
    """Read a recording in any format that libsndfile supports, at its own rate, averaging channels.

    Raises FileNotFoundError; soundfile's own errors, which are RuntimeErrors, propagate.
    """
    import soundfile

    if not path.is_file():
        raise FileNotFoundError(f"Expected a recording, but got no file at `{path}`.")
    # soundfile rejects non-UTF-8 names as text, but not as bytes.
    name = os.fsencode(path) if re.search("[\ud800-\udfff]", str(path)) else path
    with soundfile.SoundFile(name) as stream:
        blocks = [stream.read(BLOCK, dtype="float32", always_2d=True)]
        while len(blocks[-1]) == BLOCK:
            blocks.append(stream.read(BLOCK, dtype="float32", always_2d=True))
        sample_rate = stream.samplerate
    samples_TC = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    return Audio(torch.from_numpy(samples_TC).mean(dim=1), sample_rate)


def resampled(audio: Audio, sample_rate: int) -> np.ndarray:
    """Return (T,) float32, contiguous, at `sample_rate` Hz (soxr, band-limited). Not clipped: it may exceed [-1, 1]."""
    samples_T = np.ascontiguousarray(audio.samples_T.detach().float().cpu().numpy())
    if audio.sample_rate == sample_rate:
        return samples_T
    import soxr

    return soxr.resample(samples_T, audio.sample_rate, sample_rate).astype(np.float32, copy=False)


def encoded(audio: Audio, audio_format: str, comment: str = "") -> bytes:
    """Return the content of an audio file: wav or flac (16 bit), or ogg (Vorbis), with a comment in its metadata.
    Samples beyond [-1, 1] are clipped."""
    import soundfile

    samples_T = audio.samples_T.detach().float().cpu().clamp(-1, 1).numpy()
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", audio.sample_rate, 1, format=audio_format.upper()) as file:
        if comment:
            file.comment = comment
        for start in range(0, len(samples_T), audio.sample_rate):  # libsndfile's Vorbis may crash on long writes
            file.write(samples_T[start : start + audio.sample_rate])
    return stream.getvalue()


def write_wav(audio: Audio, path: Path, comment: str = "") -> None:
    """Write a 16-bit wav file atomically, with a comment in its metadata. Raises ValueError for NaN or infinity."""
    if not bool(audio.samples_T.isfinite().all()):
        raise ValueError(f"Expected the codec to decode finite audio, but got NaN or infinity for `{path}`.")
    write_whole(path, encoded(audio, "wav", comment))
