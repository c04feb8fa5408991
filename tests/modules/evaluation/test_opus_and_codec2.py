"""Opus and Codec2 against their input, including alignment, and against the programs' files."""

import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.api import Audio
from modules.evaluation.opus_and_codec2 import CODEC2_MODES, Codec2, CodecResynthesiser, Opus
from modules.evaluation.systems import Resynthesiser
from tests.conftest import SAMPLE_RATE, speech_like
from tests.toys.facts import CodecToy

WORDS = ["seven", "one", "nine", "four", "two", "eight", "three", "zero"]

needs_codec2 = pytest.mark.skipif(
    bool(Codec2("1300").facts.requirement), reason="needs c2enc and c2dec: apt install codec2"
)
needs_opus = pytest.mark.skipif(Opus(6).facts.requirement != "", reason="needs PyAV with libopus")


@pytest.fixture(scope="module")
def speech() -> Audio:
    """2.5 s at 16 kHz whose length is not a multiple of any frame."""
    samples_T = speech_like(WORDS, 120.0, torch.Generator().manual_seed(3)).float()
    return Audio(samples_T[:-37], SAMPLE_RATE)


def envelope(samples_T: np.ndarray, sample_rate: int) -> np.ndarray:
    window = np.hanning(2 * sample_rate // 200 + 1)
    smooth = np.convolve(np.abs(samples_T), window, "same")
    return smooth - smooth.mean()


def lag_ms(original: Audio, heard: Audio, of_envelopes: bool) -> float:
    """Delay of `heard`: searches all shifts up to 100 ms, one by one."""
    before, after = original.samples_T.numpy(), heard.samples_T.numpy()
    if of_envelopes:
        before, after = envelope(before, original.sample_rate), envelope(after, original.sample_rate)
    limit = original.sample_rate // 10
    middle = before[limit:-limit]
    matches = [middle @ after[limit + lag : limit + lag + len(middle)] for lag in range(-limit, limit + 1)]
    return 1000 * (int(np.argmax(matches)) - limit) / original.sample_rate


def decibels(original: Audio, heard: Audio) -> float:
    """Signal-to-noise ratio."""
    noise_T = original.samples_T - heard.samples_T
    return float(10 * torch.log10(original.samples_T.square().sum() / noise_T.square().sum()))


@needs_opus
def test_opus_at_a_high_rate_gives_back_its_input(speech: Audio) -> None:
    """Guards against a delay that is not trimmed, a wrong gain and a wrong rate: all destroy the signal-to-noise ratio.

    A single sample of delay costs 10 dB: the reference is the same output, shifted."""
    heard, _ = Opus(200).resynthesise(speech)
    assert heard.sample_rate == speech.sample_rate
    assert heard.samples_T.shape == speech.samples_T.shape
    assert decibels(speech, heard) > 15
    for shift in (-1, 1):
        shifted = Audio(heard.samples_T.roll(shift), speech.sample_rate)
        assert decibels(speech, shifted) < decibels(speech, heard) - 6


@needs_opus
def test_more_bits_give_a_better_copy_and_the_bits_are_those_of_the_packets(speech: Audio) -> None:
    """Guards against a bit rate that is set but not applied, and against nominal instead of counted bits.

    The reference is PyAV's demuxer on the very stream.
    """
    import av

    quality = {}
    for kilobits in (6, 12, 24):
        codec = Opus(kilobits)
        heard, num_bits = codec.resynthesise(speech)
        quality[kilobits] = decibels(speech, heard)
        stream, counted = codec._encode(speech.samples_T.numpy(), SAMPLE_RATE)
        with av.open(stream) as container:
            assert sum(packet.size * 8 for packet in container.demux() if packet.size) == counted == num_bits
        assert num_bits / speech.seconds / 1000 == pytest.approx(kilobits, rel=0.3)
    assert quality[6] < quality[12] - 3 < quality[24] - 6


@needs_opus
@pytest.mark.parametrize("sample_rate", [8000, 22050, 44100, 48000])
def test_opus_takes_any_rate(speech: Audio, sample_rate: int) -> None:
    """Guards against output at the decoder's 48 kHz, or of another length, and against a delay from resampling."""
    import soxr

    resampled = Audio(torch.from_numpy(soxr.resample(speech.samples_T.numpy(), SAMPLE_RATE, sample_rate)), sample_rate)
    heard, _ = Opus(48).resynthesise(resampled)
    assert heard.sample_rate == sample_rate
    assert heard.samples_T.shape == resampled.samples_T.shape
    assert abs(lag_ms(resampled, heard, of_envelopes=False)) <= 0.3


@needs_opus
def test_opus_at_six_kilobits_is_in_time(speech: Audio) -> None:
    """Guards against a delay, which STOI and PESQ would penalise like distortion."""
    heard, _ = Opus(6).resynthesise(speech)
    assert abs(lag_ms(speech, heard, of_envelopes=True)) <= 2


@needs_codec2
@pytest.mark.parametrize("mode", ["700C", "1300", "3200"])
def test_codec2_is_in_time_and_has_its_nominal_rate(speech: Audio, mode: str) -> None:
    """Guards against the vocoder's delay of 20 to 32 ms left in: with it STOI falls from 0.85 to 0.65 at 3200 bit/s.

    The signal differs from the prompts on which the delays were measured, hence a tolerance of 10 ms.
    """
    heard, num_bits = Codec2(mode).resynthesise(speech)
    assert heard.samples_T.shape == speech.samples_T.shape
    assert abs(lag_ms(speech, heard, of_envelopes=True)) <= 10
    nominal = int(mode.rstrip("C"))
    assert nominal <= num_bits / speech.seconds <= 1.05 * nominal  # whole frames, and one for the delay


@needs_codec2
def test_codec2_gives_what_the_programs_write_into_files(tmp_path: Path) -> None:
    """Guards against frames lost in pipes, a wrong byte order and a wrong scale. The reference goes through files."""
    samples_T = speech_like(WORDS, 150.0, torch.Generator().manual_seed(5)).float()[::2][:16000].contiguous()
    heard, _ = Codec2("3200").resynthesise(Audio(samples_T, 8000))
    pulses = [round(32767 * sample) for sample in samples_T.tolist()] + [0] * 160
    (tmp_path / "in.raw").write_bytes(struct.pack(f"<{len(pulses)}h", *pulses))
    subprocess.run(["c2enc", "3200", tmp_path / "in.raw", tmp_path / "bits"], check=True, capture_output=True)
    subprocess.run(["c2dec", "3200", tmp_path / "bits", tmp_path / "out.raw"], check=True, capture_output=True)
    decoded = (tmp_path / "out.raw").read_bytes()
    expected = [pulse / 32768 for pulse in struct.unpack(f"<{len(decoded) // 2}h", decoded)]
    delay = CODEC2_MODES["3200"][2]
    assert heard.samples_T.tolist() == pytest.approx(expected[delay : delay + 16000], abs=1e-6)


class HalvingCodec(CodecToy):
    """A codec of ours that can be checked by hand: 100 samples per code of 8 bits, the level of their mean."""

    sample_rate, frame_rate, codebook_size, fingerprint = 8000, 80.0, 256, "toy"

    def encode(self, audio_BT: torch.Tensor, num_samples_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        padded_BT = torch.nn.functional.pad(audio_BT, (0, -audio_BT.shape[1] % 100))
        codes_BS = ((padded_BT.unflatten(1, (-1, 100)).mean(-1) + 1) * 127.5).round().long()
        return codes_BS, -(-num_samples_B // 100)

    def decode(self, codes_BS: torch.Tensor, num_codes_B: torch.Tensor, start_frame: int = 0) -> torch.Tensor:
        return (codes_BS[:, start_frame:] / 127.5 - 1).repeat_interleave(100, dim=1)

    def decode_flops(self, num_codes: int) -> float:
        return 0.0


def test_a_codec_as_resynthesiser() -> None:
    """Guards against bits without the last frame, and against output at the codec's rate or length."""
    level = Audio(torch.full((16_050 * 2,), 0.4), 16_000)  # 16,050 samples at 8 kHz: 161 codes
    heard, num_bits = CodecResynthesiser(HalvingCodec(), "toy").resynthesise(level)
    assert num_bits == 161 * 8
    assert heard.sample_rate == 16_000
    assert heard.samples_T.shape == level.samples_T.shape
    assert heard.samples_T[500:-500].sub(0.4).abs().max() < 0.02


def test_all_are_resynthesisers() -> None:
    """Guards against a missing name or method that would fail in the middle of a run."""
    for one in (Opus(6), Codec2("1300"), CodecResynthesiser(HalvingCodec(), "toy")):
        assert isinstance(one, Resynthesiser)
    assert [one.facts.name for one in (Opus(6), Opus(9.5), Codec2("700C"))] == ["Opus 6k", "Opus 9.5k", "Codec2 700C"]


def test_bad_input_is_refused(monkeypatch: pytest.MonkeyPatch, speech: Audio) -> None:
    """Guards against a traceback instead of a clear error."""
    with pytest.raises(ValueError, match=r"`kilobits_per_second` in \[6, 256\], but got 0.6"):
        Opus(0.6)
    with pytest.raises(ValueError, match=r"`mode` to be one of .*but got '2400X'"):
        Codec2("2400X")
    if not Opus(6).facts.requirement:
        with pytest.raises(ValueError, match="to hold samples"):
            Opus(6).resynthesise(Audio(torch.zeros(0), SAMPLE_RATE))
    monkeypatch.setenv("PATH", "")
    assert Codec2("1300").facts.requirement
    with pytest.raises(FileNotFoundError, match="apt install codec2"):
        Codec2("1300").resynthesise(speech)
