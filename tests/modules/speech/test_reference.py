"""A recording as voice prompt: what is done to it, what is said about it, and what is refused."""

import re
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from datamodules.sources.source import Recording
from modules.api import Audio
from modules.audio import resampled
from modules.recognition import error_rate
from modules.speech.reference import begins_with_leak, clipped_share, leaks, lowest_similarity, read_reference
from modules.verifiers.embeddings.resemblyzer import Resemblyzer
from modules.verifiers.recognisers.normalise import LetterWords
from modules.verifiers.recognisers.whisper import FasterWhisper
from tests.conftest import speech_like

RATE = 16_000


class Listener:
    """A recogniser of English that knows how long it listened, and keeps what it heard."""

    model_hash, families = "listener", frozenset({"toy"})

    def __init__(self, text: str = "heard {:.2f} seconds") -> None:
        self.text = text
        self.heard: list[Audio] = []

    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        if language != "en":
            raise ValueError(f"Expected `language` supported by the listener (en), but got {language!r}.")
        self.heard += audios
        return [self.text.format(audio.seconds) for audio in audios]

    def flops(self, seconds: float) -> float:
        return 0.0


def silence(seconds: float, level: float = 1e-4) -> np.ndarray:
    return (level * np.random.default_rng(0).standard_normal(round(seconds * RATE))).astype(np.float32)


def sentence(pitch: float = 120.0, number: int = 5) -> np.ndarray:
    """Words of 0.25 s with 0.06 s between: (T,) of 1.5 s for 5 of them, with no silence before or after."""
    generator = torch.Generator().manual_seed(number)
    samples_T = speech_like(["zero", "one", "two", "three", "four"][:number], pitch, generator)
    return samples_T[: -round(0.06 * RATE)].numpy().astype(np.float32)


@pytest.fixture
def write(tmp_path: Path):
    def written(samples: np.ndarray, rate: int = RATE, name: str = "me.wav", subtype: str | None = None) -> Path:
        soundfile.write(tmp_path / name, samples, rate, subtype=subtype)
        return tmp_path / name

    return written


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "no file at"),
        ("not audio", "neither libsndfile nor FFmpeg can read"),
        ("empty file", "neither libsndfile nor FFmpeg can read"),
        ("no samples", "no samples"),
        ("silent", "silence"),
        ("offset", "silence"),
        ("not finite", "NaN or infinity"),
        ("0.3 s", "at least 0.5 s of speech, but got 0."),
        ("0.3 s in silence", "at least 0.5 s of speech, but got 0."),
        ("click", "silence"),
    ],
)
def test_a_recording_without_speech_is_refused_in_one_line(case: str, message: str, write, tmp_path: Path) -> None:
    """Guards against a voice made of nothing, and against a traceback of a library."""
    short = sentence()[: round(0.3 * RATE)]
    samples = {
        "no samples": short[:0],
        "silent": silence(3, 1e-5),
        "offset": np.full(3 * RATE, 0.1),
        "not finite": np.full(RATE, np.nan),
        "0.3 s": short,
        "0.3 s in silence": np.concatenate([silence(2), short, silence(2)]),
        "click": np.concatenate([silence(1), np.ones(16, np.float32), silence(1)]),
    }
    path = tmp_path / "me.wav"
    if case in samples:
        write(samples[case], subtype="FLOAT")
    elif case != "missing":
        path.write_bytes(b"" if case == "empty file" else b"my voice, written down\n" * 50)
    with pytest.raises(ValueError, match=message) as caught:
        read_reference(path, "zero one two", "en", Listener())
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert str(caught.value).startswith("Expected ")


def test_without_a_transcript_a_recogniser_of_the_language_is_needed(write) -> None:
    """Guards against an English recogniser that writes down German, and against a voice whose words are unknown."""
    path = write(sentence())
    for recogniser in (None, Listener()):
        with pytest.raises(ValueError, match="`--voice-text`, or `--recogniser` with a multilingual Whisper"):
            read_reference(path, " \n", "de", recogniser)
    assert read_reference(path, " null\n eins ", "de", None).text == "null eins"
    with pytest.raises(ValueError, match="no word was heard in it"):
        read_reference(path, None, "en", Listener("... "))


# -------------------------------------------------------------------------------------------------- what is left


@pytest.mark.parametrize("level", [0.0, 1e-4, 4e-3])
def test_silence_around_the_speech_is_removed_and_the_text_kept(level: float, write) -> None:
    """Guards against silence and clicks that the voice begins with, words that are cut off (also in noise), and a
    transcript that is made although the given one still fits."""
    speech, before, after = sentence(), silence(0.8), silence(1.2)
    before[RATE // 4] = 0.9  # a click is not speech
    whole = np.concatenate([before, speech, after])
    whole += silence(len(whole) / RATE, level)
    recogniser = Listener()
    reference = read_reference(write(whole, subtype="FLOAT"), "zero one two three four", "en", recogniser)
    assert reference.text == "zero one two three four" and not recogniser.heard
    left, first = reference.audio.samples_T.numpy(), round(0.8 * RATE)
    start = next(n for n in range(len(whole)) if np.array_equal(whole[n : n + len(left)], left))
    stop = start + len(left)
    assert 0.7 < start / RATE < 0.85 and 0.75 + len(speech) / RATE < stop / RATE < 0.9 + len(speech) / RATE
    lost = np.concatenate([whole[first:start], whole[stop : first + len(speech)]])
    assert (lost**2).sum() < 1e-3 * (speech**2).sum()
    (note,) = reference.notes
    assert re.fullmatch(r"silence trimmed: 0\.[78] s before, 1\.[12] s after", note)
    assert read_reference(write(speech), "zero", "en", None).notes == ()


def test_five_minutes_are_cut_at_a_pause_and_transcribed_again(write) -> None:
    """Guards against a prompt that fills the model's context, against a cut through a word, and against the text of
    five minutes for ten seconds of speech."""
    lengths = (0.25, 0.25, 0.25, 0.25, 0.75, 0.25)  # of the pauses: that after the fifth sentence is the longest
    parts = [part for n in range(6) for part in (sentence(100 + 10 * n), silence(lengths[n]))]
    path = write(np.tile(np.concatenate(parts), 30)[: 300 * RATE], name="five.flac")
    fifth = sum(map(len, parts[:9])) / RATE  # seconds to the end of the fifth sentence
    for text in ("all words of five minutes", None):
        recogniser = Listener()
        reference = read_reference(path, text, "en", recogniser)
        (heard,) = recogniser.heard
        assert heard is reference.audio and reference.text == f"heard {heard.seconds:.2f} seconds"
        assert 8 <= fifth < reference.audio.seconds < fifth + 0.1 < 12
        assert f"cut from 300.0 s to {heard.seconds:.1f} s at a pause" in reference.notes
        assert any("given text" in note for note in reference.notes) == (text is not None)
    assert 2 <= read_reference(path, None, "en", Listener(), max_seconds=3).audio.seconds <= 3
    with pytest.raises(ValueError, match="Shorten the recording to 12 s and its text with it"):
        read_reference(path, "alle Worte", "de", None)
    late = np.concatenate([sentence(), silence(130), sentence()])
    reference = read_reference(write(late), "both sentences", "en", Listener())
    assert reference.text == f"heard {reference.audio.seconds:.2f} seconds" and reference.audio.seconds < 2
    reference = read_reference(write(np.tile(sentence(), 12)), None, "en", Listener())
    assert 8 <= reference.audio.seconds <= 12 and "within speech" in reference.notes[0]


def test_stereo_is_averaged_unless_that_loses_the_voice(write) -> None:
    """Guards against channels read as one twice as long, and against a voice that the mean cancels or halves."""
    left, right = sentence(), sentence(180)
    for channels, expected, note in (
        ([left, left], left, "stereo: channels averaged"),
        ([left, right], (left + right) / 2, "which differ"),
        ([left, -left], left, "only the loudest"),
        ([0 * left, left], left, "only the loudest"),
        ([left, left, left], left, "3 channels: channels averaged"),
    ):
        reference = read_reference(write(np.stack(channels, axis=1), subtype="FLOAT"), "zero", "en", None)
        np.testing.assert_allclose(reference.audio.samples_T.numpy(), expected, atol=1e-6)
        assert len(reference.notes) == 1 and note in reference.notes[0]


def test_clipping_is_measured(write) -> None:
    """Guards against a distorted voice without a word, and against a warning about every loud recording."""
    samples = np.tile(sentence(), 2)
    clipped = np.clip(samples * 3 / np.abs(samples).max(), -1, 1)
    in_runs, count = 0, 0
    for value in [*np.abs(clipped), 0]:  # sample by sample
        if value == 1:
            count += 1
        else:
            in_runs += count if count >= 3 else 0
            count = 0
    assert in_runs > 500
    assert clipped_share(np.stack([samples, clipped])) == pytest.approx(in_runs / len(samples))
    for scale, rate in ((1, 16_000), (0.5, 48_000)):
        note = read_reference(write(scale * clipped, rate), "zero", "en", None).notes[0]
        assert note.startswith("clipped: ")
        assert float(note.split()[1]) == pytest.approx(100 * in_runs / len(samples), rel=0.1)
    assert read_reference(write(samples / np.abs(samples).max()), "zero", "en", None).notes == ()


def test_a_low_rate_a_low_level_and_noise_are_said(write) -> None:
    """Guards against a level changed without need, and against a muffled voice without a word."""
    samples = sentence()
    narrow = read_reference(write(samples[::2], 8000), "zero", "en", None)
    assert narrow.audio.sample_rate == 8000
    assert narrow.notes == ("low sample rate: 8000 Hz holds nothing above 4 kHz",)
    same = read_reference(write(samples / 8, subtype="FLOAT"), "zero", "en", None)
    np.testing.assert_array_equal(same.audio.samples_T.numpy(), samples / 8)
    quiet = read_reference(write(samples / 40, subtype="FLOAT"), "zero", "en", None)
    gain = float(quiet.audio.samples_T.abs().max()) / float(np.abs(samples).max() / 40)
    (note,) = quiet.notes
    assert gain > 5 and note.startswith("quiet: ") and note.endswith(f"raised by {20 * np.log10(gain):.0f} dB")
    assert "noise instead of speech" in read_reference(write(silence(3, 0.1)), "zero", "en", None).notes[0]


def test_formats_of_libsndfile_and_of_ffmpeg(write, tmp_path: Path) -> None:
    """Guards against a phone's recording (m4a) that cannot be used."""
    samples = np.concatenate([silence(0.5), sentence(), silence(0.5)])
    paths = [write(samples, name=f"me.{name}") for name in ("flac", "ogg", "mp3")]
    with av.open(str(tmp_path / "me.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([samples, samples]), format="fltp", layout="stereo")
        frame.rate, frame.pts = RATE, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(tmp_path / "me.m4a")
    expected = read_reference(write(samples), "zero", "en", None).audio
    for path in [*paths, tmp_path / "me.m4a"]:
        audio = read_reference(path, "zero", "en", None).audio
        assert audio.seconds == pytest.approx(expected.seconds, abs=0.1), path
        spectra = [np.abs(np.fft.rfft(one.samples_T.numpy(), 2 * RATE))[:8000] for one in (audio, expected)]
        assert np.corrcoef(spectra)[0, 1] > 0.9, path


# ----------------------------------------------------------------------------------------------------- real voices


def test_two_voices_are_noticed_and_one_is_not(english_prompts: list[Recording], write) -> None:
    """Guards against a voice between two speakers, and against a warning about every recording."""
    encoder = Resemblyzer()
    woman = np.concatenate([one.audio.samples_T.numpy() for one in english_prompts[:5]])[: 10 * RATE]
    other = resampled(Audio(torch.from_numpy(woman), RATE), 21_000)[: 10 * RATE]  # lower, as of a longer throat
    assert len(woman) == len(other) == 10 * RATE
    for voice in (woman, other):
        notes = read_reference(write(voice), "zero", "en", None, encoder).notes
        assert not any("two voices" in note for note in notes)
    both = write(np.concatenate([woman[: 5 * RATE], other[5 * RATE :]]))
    notes = read_reference(both, "zero", "en", None, encoder).notes
    assert notes[-1].startswith("seems to hold two voices: similarity 0.")
    assert np.isnan(lowest_similarity(Audio(torch.from_numpy(woman[: 2 * RATE]), RATE), encoder)), "too short to say"


def test_whisper_transcribes_a_recorded_voice(english_prompts: list[Recording], write) -> None:
    """Guards against a transcript of another range or rate of the recording."""
    prompt = max(english_prompts, key=lambda one: one.audio.seconds)
    samples = np.concatenate([silence(1), prompt.audio.samples_T.numpy(), silence(1)])
    recogniser = FasterWhisper(device="cpu", num_workers=1, window_seconds=10)
    reference = read_reference(write(samples, prompt.audio.sample_rate), None, "en", recogniser)
    assert error_rate(LetterWords()(prompt.text), LetterWords()(reference.text), "word") <= 0.2
    assert f"transcribed (whisper): {reference.text!r}" in reference.notes


# ----------------------------------------------------------------------------------------------------------- leaks


@pytest.mark.parametrize(
    ("heard", "text", "reference", "is_leak"),
    [
        ("three one four two", "four two", "three one", True),
        ("of the north wind. Hello world", "Hello, world!", "the power of the north wind", True),
        ("me hello", "hello", "follow me", True),
        ("north win hello world", "hello world", "north wind", True),  # a word of it misheard
        ("three one", "four two", "three one", True),  # nothing of the text
        ("the dog hello world", "hello world", "the cat and the dog", True),
        ("你好今天天气", "今天天气很好", "我说你好", True),
        # the text shares words with the reference
        ("four four two", "four two", "two four", True),
        ("one one two", "one two", "three one", True),
        ("three one one three", "one three", "three one", True),
        ("three one", "one two", "three one", True),
        ("hello world hello world", "hello world", "hello world", True),
        ("hello world", "hello world", "hello world", False),
        ("four two", "four two", "two four", False),
        ("one two", "one two", "three one", False),
        ("the dog", "the dog runs", "he sees the dog", False),
        ("今天天气很好", "今天天气很好", "今天你好", False),
        # wrong words that are not the reference's
        ("five one two", "one two", "three one", False),
        ("two", "four two", "one two", False),  # a word is missing
        ("for", "four", "come for me", False),  # written otherwise
        ("for two", "four two", "all for us", False),
        ("", "four two", "three one", False),
        ("Four, two.", "four two", "", False),
    ],
)
def test_a_leak_is_the_reference_before_the_text(heard: str, text: str, reference: str, is_leak: bool) -> None:
    """Guards against speech that begins with the voice prompt's words, and against refusing good speech that shares
    words with it."""
    assert begins_with_leak(heard, text, reference) is is_leak


def test_only_the_first_second_is_transcribed(write) -> None:
    """Guards against the cost of whole candidates, and against a word that is cut in two."""
    reference = read_reference(write(sentence()), "zero one", "en", None)
    spoken = np.concatenate([sentence(), silence(0.4), sentence()])
    for text, is_leak in (("one two three", True), ("two three", False)):
        recogniser = Listener(text)
        audio = Audio(torch.from_numpy(spoken), RATE)
        assert leaks(audio, "two three", reference, recogniser, "en") is is_leak
        (heard,) = recogniser.heard
        assert 1 <= heard.seconds <= 2 and np.array_equal(heard.samples_T.numpy(), spoken[: heard.samples_T.numel()])
        assert np.abs(heard.samples_T.numpy()[-100:]).max() < 0.02, "the cut is in a pause"
