"""Reading, resampling, encoding and writing of audio."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from modules.api import Audio
from modules.audio import encoded, read_audio, resampled, write_wav

LOUD_T = 1.3 * torch.sin(torch.arange(40_000) * 0.11)  # beyond full scale, longer than a second


def test_resampling_is_soxr_and_does_not_clip() -> None:
    """Guards against scores that change with a verifier's rate because overshoots are cut off."""
    actual_T = resampled(Audio(LOUD_T, 24_000), 16_000)
    assert np.array_equal(actual_T, soxr.resample(LOUD_T.numpy(), 24_000, 16_000)) and actual_T.max() > 1.2
    assert np.array_equal(resampled(Audio(LOUD_T, 24_000), 24_000), LOUD_T.numpy())


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
def test_a_file_has_the_bytes_that_soundfile_writes_at_once(audio_format: str) -> None:
    """Guards against shards whose bytes change with a second preparation, and against wrapped samples."""
    stream = io.BytesIO()
    soundfile.write(stream, LOUD_T.clamp(-1, 1).numpy(), 16_000, format=audio_format, subtype="PCM_16")
    assert encoded(Audio(LOUD_T, 16_000), audio_format) == stream.getvalue()


def test_a_wav_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Guards against a scale that differs between writing and reading, and against files of NaN."""
    samples_T = (LOUD_T * 20_000).round().clamp(-32768, 32767) / 32768
    write_wav(Audio(samples_T, 16_000), tmp_path / "a.wav")
    again = read_audio(tmp_path / "a.wav")
    assert again.sample_rate == 16_000 and torch.equal(again.samples_T, samples_T)
    with pytest.raises(ValueError, match="finite"):
        write_wav(Audio(torch.tensor([0.0, torch.nan]), 16_000), tmp_path / "b.wav")
    assert not (tmp_path / "b.wav").exists()
