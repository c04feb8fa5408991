"""The codec's table against jiwer, pystoi, pesq, scipy and naive loops."""

import math
from collections.abc import Sequence
from functools import cache

import jiwer
import numpy as np
import pytest
import torch
from pesq import pesq
from pystoi import stoi
from scipy import stats
from torch import Tensor

from datamodules.sources.source import Recording
from modules.api import Audio
from modules.evaluation.judge import EvaluatedRecording, Judgement, judge, summarise
from modules.evaluation.opus_and_codec2 import Codec2, Opus
from modules.evaluation.table import formatted_table
from modules.statistics import mean_estimate, ratio_estimate
from modules.verifiers.recognisers.normalise import EnglishWords
from modules.verifiers.recognisers.whisper import FasterWhisper
from tests.conftest import SAMPLE_RATE, speech_like

TEXTS = {
    "a1": "Please hold the line",
    "a2": "You have twenty-two new messages, and that's all",
    "a3": "The colour isn't right today",
    "a4": "press one to go on now please",
}


class ScriptedRecogniser:
    """Returns the scripted text for a clip with that number of samples (at 16 kHz)."""

    model_hash = "script"

    def __init__(self, script: dict[int, str]) -> None:
        self.script = script
        self.heard: list[Audio] = []

    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        assert language == "en"
        self.heard += audios
        return [self.script[audio.samples_T.numel()] for audio in audios]

    def flops(self, seconds: float) -> float:
        return 0.0


@cache
def spoken(number: int, seconds: float = 2.0) -> Tensor:
    """Synthetic speech of at least `seconds`, a little longer for each number."""
    words = [f"word{number}{index}" for index in range(math.ceil(seconds / 0.31))]
    samples_T = speech_like(words, 100.0 + 10 * number, torch.Generator().manual_seed(number)).float()
    return samples_T[: int(seconds * SAMPLE_RATE) + 10 * number]


@pytest.fixture
def utterances() -> list[EvaluatedRecording]:
    return [
        EvaluatedRecording(key, text, Audio(spoken(number), SAMPLE_RATE))
        for number, (key, text) in enumerate(TEXTS.items())
    ]


@pytest.fixture
def hypotheses() -> list[str]:
    """Correct except for form; a substitution; an insertion and two deletions; an empty transcript."""
    return ["please HOLD, the line.", "You have 22 new massages and that is all", "the very colour isn't", ""]


def noisy(audio: Audio, level: float) -> Audio:
    noise_T = level * torch.randn(audio.samples_T.numel(), generator=torch.Generator().manual_seed(1))
    return Audio((audio.samples_T + noise_T).clamp(-1, 1), audio.sample_rate)


def test_the_table_is_that_of_the_reference_packages(
    utterances: list[EvaluatedRecording], hypotheses: list[str]
) -> None:
    """Guards against a mean of utterances' error rates instead of the corpus's, swapped arguments, another rate."""
    script = {one.audio.samples_T.numel(): text for one, text in zip(utterances, hypotheses, strict=True)}
    heard = [noisy(one.audio, 0.02) for one in utterances]
    normaliser = EnglishWords()
    num_bits = [1000.0, 1500.0, 700.0, 800.0]
    rows = judge("noise", utterances, heard, num_bits, ScriptedRecogniser(script), normaliser, "en")
    result = summarise(rows, seed=0)["noise"]

    references = [normaliser(one.text) for one in utterances]
    assert result["wer"].value == pytest.approx(jiwer.wer(references, [normaliser(text) for text in hypotheses]))
    assert [row.num_errors for row in rows] == [0, 1, 3, 7]
    pairs = [(a.audio.samples_T.numpy(), b.samples_T.numpy()) for a, b in zip(utterances, heard, strict=True)]
    assert result["stoi"].value == pytest.approx(np.mean([stoi(a, b, 16000) for a, b in pairs]), abs=1e-6)
    for mode in ("nb", "wb"):
        expected = np.mean([pesq(16000, a, b, mode) for a, b in pairs])
        assert result[f"pesq_{mode}"].value == pytest.approx(expected, abs=1e-4)
    assert result["pesq_wb"].value != pytest.approx(result["pesq_nb"].value, abs=0.05)
    seconds = sum(len(a) for a, _ in pairs) / 16000
    assert result["bit_rate"].value == pytest.approx(4000 / seconds)
    assert all(estimate.num == 4 and estimate.num_unjudged == 0 for estimate in result.values())


def test_a_resynthesis_at_another_rate_is_judged_at_16_khz(
    utterances: list[EvaluatedRecording], hypotheses: list[str]
) -> None:
    """Guards against passing a codec's own 24 kHz, or audio of another length, to PESQ and the recogniser."""
    import soxr

    script = {one.audio.samples_T.numel(): text for one, text in zip(utterances, hypotheses, strict=True)}
    heard = [
        Audio(torch.from_numpy(soxr.resample(one.audio.samples_T.numpy(), 16000, 24000)[:-30]), 24000)
        for one in utterances
    ]
    recogniser = ScriptedRecogniser(script)
    rows = judge("24k", utterances, heard, [0.0] * 4, recogniser, EnglishWords(), "en")
    assert all(audio.sample_rate == 16000 for audio in recogniser.heard)
    assert min(row.stoi for row in rows) > 0.999
    assert min(row.pesq_wb for row in rows) > 4.1


def test_what_cannot_be_judged_is_counted(utterances: list[EvaluatedRecording], hypotheses: list[str]) -> None:
    """Guards against items missing from a mean: silence, NaN from a broken codec, a text without words."""
    script = {one.audio.samples_T.numel(): text for one, text in zip(utterances, hypotheses, strict=True)}
    utterances = [*utterances[:3], EvaluatedRecording("a4", "[beep]", utterances[3].audio)]
    heard = [noisy(one.audio, 0.01) for one in utterances]
    heard[0] = Audio(torch.zeros_like(heard[0].samples_T), SAMPLE_RATE)
    heard[1].samples_T[5] = math.nan
    recogniser = ScriptedRecogniser(script)
    result = summarise(judge("x", utterances, heard, [0.0] * 4, recogniser, EnglishWords(), "en"), seed=0)["x"]
    assert all(audio.samples_T.isfinite().all() for audio in recogniser.heard)
    assert (result["stoi"].num, result["stoi"].num_unjudged) == (2, 2)
    assert (result["pesq_wb"].num, result["pesq_wb"].num_unjudged) == (2, 2)
    assert (result["wer"].num, result["wer"].num_unjudged) == (3, 1)
    text = formatted_table({"x": result})
    assert "x: stoi of 2 utterances could not be judged" in text
    assert "x: wer of 1 utterances could not be judged" in text
    nothing = mean_estimate([math.nan], seed=0)
    assert math.isnan(nothing.value) and (nothing.num, nothing.num_unjudged) == (0, 1)
    assert math.isnan(ratio_estimate([math.nan], [3], seed=0).value)


def test_intervals_are_those_of_scipy() -> None:
    """Guards against errors and words resampled separately, and against an interval of the mean of ratios."""
    generator = np.random.default_rng(3)
    num_words = generator.integers(3, 30, 80)
    num_errors = np.minimum(
        generator.poisson(0.02 * num_words**1.5), num_words
    )  # long ones are worse: distinguishes the mean of ratios
    estimate = ratio_estimate(num_errors, num_words, seed=0, num_resamples=9000)
    reference = stats.bootstrap(
        (num_errors, num_words),
        lambda errors, words, axis=-1: errors.sum(axis) / words.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=9000,
        rng=np.random.default_rng(9),
    ).confidence_interval
    width = reference.high - reference.low
    assert estimate.value == pytest.approx(num_errors.sum() / num_words.sum())
    assert estimate.low == pytest.approx(reference.low, abs=0.05 * width)
    assert estimate.high == pytest.approx(reference.high, abs=0.05 * width)


def test_the_table_does_not_depend_on_the_order_of_rows() -> None:
    """Guards against intervals that change with the number of ranks."""
    generator = np.random.default_rng(0)
    rows = [
        Judgement("s", f"k{n}", 1.0 + n, 600.0 * n, 5, float(generator.integers(5)), *generator.random(3), "", "")
        for n in range(20)
    ]
    assert summarise(rows, seed=1) == summarise([rows[n] for n in generator.permutation(20)], seed=1)
    assert summarise(rows, seed=1) != summarise(rows, seed=2)


@pytest.mark.skipif(
    bool(Codec2("700C").facts.requirement or Opus(6).facts.requirement), reason="needs codec2 and libopus"
)
def test_real_codecs_on_recorded_prompts(english_prompts: list[Recording]) -> None:
    """Guards against a ranking by chance: more bits must score better in every column."""
    recordings = sorted(english_prompts, key=lambda one: one.audio.seconds)[:5]
    utterances = [EvaluatedRecording(one.key, one.text, one.audio) for one in recordings]
    recogniser, normaliser = FasterWhisper(num_workers=1), EnglishWords()
    rows = []
    for system in (Opus(32), Codec2("700C")):
        heard, num_bits = zip(*(system.resynthesise(one.audio) for one in utterances), strict=True)
        rows += judge(system.name, utterances, heard, num_bits, recogniser, normaliser, "en")
    table = summarise(rows, seed=0)
    good, bad = table["Opus 32k"], table["Codec2 700C"]
    assert good["wer"].value <= 0.2 and good["wer"].value < bad["wer"].value
    assert good["stoi"].value > 0.95 and good["stoi"].value > bad["stoi"].value + 0.1
    assert good["pesq_wb"].value > bad["pesq_wb"].value + 1
    assert good["pesq_nb"].value > bad["pesq_nb"].value + 1
