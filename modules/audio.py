"""Audio files read and written, and resampling.

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

BLOCK = 2**22  # samples per read: memory follows what a file holds, not what a damaged header says


def read_audio(path: Path) -> Audio:
    """A recording of any format that libsndfile reads, at its own rate, its channels averaged.

    Raises FileNotFoundError; soundfile's own errors, which are RuntimeErrors, pass through.
    """
    import soundfile

    if not path.is_file():
        raise FileNotFoundError(f"Expected a recording, but got no file at `{path}`.")
    # soundfile refuses a name that is no UTF-8 as text, not as bytes.
    name = os.fsencode(path) if re.search("[\ud800-\udfff]", str(path)) else path
    with soundfile.SoundFile(name) as stream:
        blocks = [stream.read(BLOCK, dtype="float32", always_2d=True)]
        while len(blocks[-1]) == BLOCK:
            blocks.append(stream.read(BLOCK, dtype="float32", always_2d=True))
        sample_rate = stream.samplerate
    samples_TC = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    return Audio(torch.from_numpy(samples_TC).mean(dim=1), sample_rate)


def resampled(audio: Audio, sample_rate: int) -> np.ndarray:
    """(T,) float32, contiguous, at `sample_rate` Hz (soxr, band-limited). Not clipped: it may exceed [-1, 1]."""
    samples_T = np.ascontiguousarray(audio.samples_T.detach().float().cpu().numpy())
    if audio.sample_rate == sample_rate:
        return samples_T
    import soxr

    return soxr.resample(samples_T, audio.sample_rate, sample_rate).astype(np.float32, copy=False)


def encoded(audio: Audio, audio_format: str) -> bytes:
    """The content of an audio file: wav or flac (16 bit), or ogg (Vorbis). Samples beyond [-1, 1] are clipped."""
    import soundfile

    samples_T = audio.samples_T.detach().float().cpu().clamp(-1, 1).numpy()
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", audio.sample_rate, 1, format=audio_format.upper()) as file:
        for start in range(0, len(samples_T), audio.sample_rate):  # libsndfile's Vorbis may crash on long writes
            file.write(samples_T[start : start + audio.sample_rate])
    return stream.getvalue()


def write_wav(audio: Audio, path: Path) -> None:
    """Write a 16-bit wav file, whole or not at all. Raises ValueError on NaN or infinity."""
    if not bool(audio.samples_T.isfinite().all()):
        raise ValueError(f"Expected the codec to decode finite audio, but got NaN or infinity for `{path}`.")
    write_whole(path, encoded(audio, "wav"))
