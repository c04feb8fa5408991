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


def test_what_libsndfile_cannot_read_ffmpeg_can(tmp_path: Path) -> None:
    """Guards against phones' recordings and videos that are skipped, and FLAC without a count of its samples."""
    import av

    tone_T = 0.3 * np.sin(np.arange(32_000) * 0.05).astype(np.float32)
    for name, codec in (("a.m4a", "aac"), ("b.webm", "libopus"), ("c.wma", "wmav2"), ("d.mp4", "aac")):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream(codec, rate=48_000, layout="mono")
            stream.bit_rate = 64_000
            frame = av.AudioFrame.from_ndarray(tone_T[None], format="fltp", layout="mono")
            frame.sample_rate = 16_000
            for packet in [*(one for part in av.AudioResampler(stream.format, "mono", 48_000).resample(frame)
                             for one in stream.encode(part)), *stream.encode(None)]:  # fmt: skip
                container.mux(packet)
        read = read_audio(tmp_path / name)
        assert read.sample_rate == 48_000 and abs(read.seconds - 2) < 0.1, name
        middle_T = read_audio(tmp_path / name, 0.5, 1.5).samples_T
        assert torch.equal(middle_T, read.samples_T[24_000:72_000])
        frequency = np.abs(np.fft.rfft(middle_T.numpy() * np.hanning(48_000))).argmax()
        assert abs(frequency - 0.05 * 16_000 / (2 * np.pi)) < 1 and middle_T.abs().max() > 0.2
    soundfile.write(tmp_path / "e.flac", tone_T, 16_000)
    content = bytearray((tmp_path / "e.flac").read_bytes())
    content[21] &= 0xF0  # STREAMINFO's count of samples has 36 bits; 0 is unknown
    content[22:26] = bytes(4)
    (tmp_path / "e.flac").write_bytes(content)
    assert np.abs(read_audio(tmp_path / "e.flac").samples_T.numpy() - tone_T).max() < 2**-14
    (tmp_path / "f.m4a").write_bytes(b"no audio")
    with pytest.raises(soundfile.LibsndfileError, match=r"f\.m4a"):
        read_audio(tmp_path / "f.m4a")


def test_a_file_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against one recording of days that ends a worker; a part of it is read."""
    monkeypatch.setattr("modules.audio.MAX_HOURS", 1 / 3600)
    soundfile.write(tmp_path / "a.wav", np.zeros(20_000), 16_000)
    with pytest.raises(ValueError, match="cut it into parts"):
        read_audio(tmp_path / "a.wav")
    assert read_audio(tmp_path / "a.wav", 0.5, 1.2).samples_T.shape == (11_200,)


def test_ogg_has_the_same_bytes_again() -> None:
    """Guards against libsndfile's random serial number in shards, and pages that a decoder rejects."""
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
