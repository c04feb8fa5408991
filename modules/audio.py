"""Reading and writing of audio files, and resampling."""

import io
from pathlib import Path

import numpy as np
import torch

from modules.api import Audio
from modules.atomic_file import write_whole


def read_audio(path: Path) -> Audio:
    """Read a recording in any format supported by libsndfile; averages channels. Raises FileNotFoundError,
    ValueError."""
    import soundfile

    if not path.is_file():
        raise FileNotFoundError(f"Expected `reference` to be a recording, but got no file at `{path}`.")
    try:
        samples_TC, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise ValueError(f"Expected `reference` to be audio that libsndfile reads, but got `{path}`.") from error
    return Audio(torch.from_numpy(samples_TC).mean(dim=1), sample_rate)


def write_wav(audio: Audio, path: Path) -> None:
    """Write 16-bit PCM, 1.0 = 32767; samples beyond [-1, 1] are clipped. Raises ValueError for NaN or infinity."""
    import soundfile

    samples_T = audio.samples_T.detach().float().cpu()
    if not bool(samples_T.isfinite().all()):
        raise ValueError(f"Expected the codec to decode finite audio, but got NaN or infinity for `{path}`.")
    pcm_T = (samples_T.clamp(-1, 1) * 32767).round().to(torch.int16)
    stream = io.BytesIO()
    soundfile.write(stream, pcm_T.numpy(), audio.sample_rate, format="WAV", subtype="PCM_16")
    write_whole(path, stream.getvalue())


def samples_at(audio: Audio, sample_rate: int) -> np.ndarray:
    """Return (T,) float32 in [-1, 1] at `sample_rate` Hz (soxr). Raises ValueError if there are no samples."""
    if audio.samples_T.numel() == 0:
        raise ValueError("Expected `audio` to hold samples, but got none.")
    return resampled(audio.samples_T.detach().float().cpu().clamp(-1, 1).numpy(), audio.sample_rate, sample_rate)


def resampled(samples_T: np.ndarray, source: int, target: int) -> np.ndarray:
    """Resample from `source` to `target` Hz, within [-1, 1]; unchanged if they are equal."""
    if source == target:
        return samples_T
    import soxr

    return np.clip(soxr.resample(samples_T, source, target), -1, 1)
