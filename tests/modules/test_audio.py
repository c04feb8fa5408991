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


def test_ogg_has_the_same_bytes_again() -> None:
    """Guards against libsndfile's random serial number in shards, and pages that a decoder rejects by their checksum."""
    first, second = (encoded(Audio(LOUD_T, 16_000), "ogg") for _ in range(2))
    assert first == second
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", 16_000, 1, format="OGG") as file:
        for start in range(0, len(LOUD_T), 16_000):
            file.write(LOUD_T.clamp(-1, 1).numpy()[start : start + 16_000])
    theirs, _ = soundfile.read(io.BytesIO(stream.getvalue()))
    assert stream.getvalue() != first and np.array_equal(soundfile.read(io.BytesIO(first))[0], theirs)


def test_one_channel_is_read_by_either_decoder(tmp_path: Path) -> None:
    """Guards against both speakers of a call in one recording, and a channel of another number than the asked."""
    import av

    times_T = np.arange(1600) / 16_000
    waves_TC = np.stack([0.25 * np.sin(2 * np.pi * pitch * times_T) for pitch in (300, 500)], axis=1).astype(np.float32)
    soundfile.write(tmp_path / "call.wav", waves_TC, 16_000, subtype="FLOAT")
    with av.open(tmp_path / "call.mka", "w") as container:  # which libsndfile does not read
        stream = container.add_stream("pcm_f32le", rate=16_000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(waves_TC.reshape(1, -1), format="flt", layout="stereo")
        frame.sample_rate = 16_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    for name in ("call.wav", "call.mka"):
        for channel in (0, 1):
            assert np.array_equal(read_audio(tmp_path / name, channel=channel).samples_T, waves_TC[:, channel])
        assert np.allclose(read_audio(tmp_path / name).samples_T, waves_TC.mean(axis=1), atol=1e-7)
    with pytest.raises(ValueError, match="no channel 2: the recording has 2"):
        read_audio(tmp_path / "call.wav", channel=2)


def test_a_wav_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Guards against a scale that differs between writing and reading, and against files of NaN."""
    samples_T = (LOUD_T * 20_000).round().clamp(-32768, 32767) / 32768
    write_wav(Audio(samples_T, 16_000), tmp_path / "a.wav")
    again = read_audio(tmp_path / "a.wav")
    assert again.sample_rate == 16_000 and torch.equal(again.samples_T, samples_T)
    with pytest.raises(ValueError, match="finite"):
        write_wav(Audio(torch.tensor([0.0, torch.nan]), 16_000), tmp_path / "b.wav")
    assert not (tmp_path / "b.wav").exists()
