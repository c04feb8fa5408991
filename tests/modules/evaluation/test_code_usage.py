"""Code usage and perplexity with their intervals, speed, and verifiers' columns, against naive loops."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from modules.api import Audio, Candidate, Prompt
from modules.evaluation.code_usage import code_estimates
from modules.evaluation.judge import EvaluatedRecording, Judgement, recognised, summarise, verify
from tests.conftest import SAMPLE_RATE
from tests.modules.evaluation.test_judge import spoken
from tests.toys.facts import VerifierToy


def row(system: str, key: str, **known: object) -> Judgement:
    return Judgement(system, key, 2.0, 1200.0, 5, 1.0, 0.9, 2.0, 1.5, "a", "b", **known)


def utterances_of_codes(num: int, num_codebooks: int = 2) -> list[np.ndarray]:
    """Codes of 64 entries with a skewed distribution, the second codebook's more than the first's."""
    generator = np.random.default_rng(4)
    skew = np.array([2.0, 4.0])[:num_codebooks, None]
    lengths = generator.integers(5, 30, num).tolist()
    return [(64 * generator.random((num_codebooks, length)) ** skew).astype(int) for length in lengths]


def naive(codes: list[np.ndarray]) -> tuple[float, float]:
    """Usage and perplexity, codebook by codebook with a Counter."""
    usages, perplexities = [], []
    for codebook in range(codes[0].shape[0]):
        counts = Counter(int(code) for codes_QS in codes for code in codes_QS[codebook])
        usages.append(len(counts) / 64)
        perplexities.append(math.exp(stats.entropy(list(counts.values()))))
    return float(np.mean(usages)), float(np.mean(perplexities))


def test_code_usage_and_perplexity_of_several_codebooks() -> None:
    """Guards against pooling codebooks, and against an interval that excludes its own value, like the plain percentile
    interval of a count of distinct codes. The reference resamples whole utterances and counts."""
    codes = utterances_of_codes(12)
    got = code_estimates([*codes, None, np.zeros((2, 0), dtype=int)], 64, seed=5, num_resamples=300)
    usage, perplexity = naive(codes)
    assert got["code_usage"].value == pytest.approx(usage)
    assert got["code_perplexity"].value == pytest.approx(perplexity)
    generator = np.random.default_rng(5)
    drawn = np.array([naive([codes[place] for place in places]) for places in generator.integers(0, 12, (300, 12))])
    for place, (name, value) in enumerate((("code_usage", usage), ("code_perplexity", perplexity))):
        low, high = np.quantile(drawn[:, place], [0.025, 0.975]) + value - drawn[:, place].mean()
        assert (got[name].low, got[name].high) == pytest.approx((low, high))
        assert got[name].low < value < got[name].high
        assert (got[name].num, got[name].num_unjudged) == (12, 2)
    assert np.quantile(drawn[:, 0], 0.975) < usage, "the plain interval would have done"
    nothing = code_estimates([None], 64, seed=0)["code_usage"]
    assert math.isnan(nothing.value) and (nothing.num, nothing.num_unjudged) == (0, 1)


def test_what_was_measured_of_a_system_is_in_its_row_and_only_that() -> None:
    """Guards against speeds averaged over clips instead of seconds, and against zeros for missing measurements."""
    rows = [
        row("fast", "a", encode_seconds=0.1, decode_seconds=0.4, scores={"speaker": 0.5, "dnsmos": math.nan}),
        row("fast", "b", encode_seconds=0.3, decode_seconds=math.nan, scores={"speaker": 0.7, "dnsmos": 3.0}),
        row("plain", "a"),
        row("plain", "b"),
    ]
    table = summarise(rows, seed=0, num_resamples=50)
    assert table["fast"]["encode_rtf"].value == pytest.approx(0.4 / 4.0)
    assert (table["fast"]["decode_rtf"].value, table["fast"]["decode_rtf"].num_unjudged) == (pytest.approx(0.2), 1)
    assert table["fast"]["speaker"].value == pytest.approx(0.6)
    assert (table["fast"]["dnsmos"].value, table["fast"]["dnsmos"].num_unjudged) == (3.0, 1)
    assert list(table["plain"]) == ["wer", "stoi", "pesq_nb", "pesq_wb", "bit_rate"]


class Comparing(VerifierToy):
    """Scores the distance of a clip from the reference, fails for silence; records the sample rates it received."""

    best_score, families = 0.0, frozenset({"distance"})
    name, model_hash, worst_score, needs_reference, judges_partial = "distance", "x", -1.0, True, True

    def __init__(self) -> None:
        self.heard: list[Audio] = []

    def score(self, prompt: Prompt, candidates: list[Candidate]) -> torch.Tensor:
        self.heard += [prompt.reference, *(candidate.audio for candidate in candidates)]
        if any(not candidate.audio.samples_T.any() for candidate in candidates):
            raise ValueError("silence")
        distances = [(one.audio.samples_T - prompt.reference.samples_T).abs().max() for one in candidates]
        return torch.stack(distances).double()


def test_verifiers_compare_with_the_recording_at_16_khz_and_a_failure_costs_one_score() -> None:
    """Guards against similarity to another utterance or at the codec's own rate, and systems mixed up."""
    import soxr

    samples_T = spoken(0)
    high_T = torch.from_numpy(soxr.resample(samples_T.numpy(), SAMPLE_RATE, 24000))[:-9]
    heard = {
        "same": Audio(samples_T, SAMPLE_RATE),
        "loud": Audio(samples_T + 0.25, SAMPLE_RATE),
        "silent": Audio(torch.zeros_like(samples_T), SAMPLE_RATE),
        "other rate": Audio(high_T, 24000),
    }
    verifier = Comparing()
    scores = verify(EvaluatedRecording("k", "text", heard["same"]), heard, [verifier], "en")
    assert scores["same"] == {"distance": 0}
    assert scores["loud"]["distance"] == pytest.approx(0.25, abs=1e-6)
    assert math.isnan(scores["silent"]["distance"])
    assert scores["other rate"]["distance"] < 0.1
    assert {(one.sample_rate, one.samples_T.numel()) for one in verifier.heard} == {(SAMPLE_RATE, samples_T.numel())}


class Fragile:
    """Fails for clips of given lengths."""

    model_hash = "fragile"

    def __init__(self, lengths: set[int], error: type[Exception] = RuntimeError) -> None:
        self.lengths, self.error = lengths, error

    def transcribe(self, audios: list[Audio], language: str) -> list[str]:
        if any(audio.samples_T.numel() in self.lengths for audio in audios):
            raise self.error("broken")
        return [f"{audio.samples_T.numel()}" for audio in audios]

    def flops(self, seconds: float) -> float:
        return 0.0


def test_a_clip_on_which_the_recogniser_fails_is_counted_and_the_others_are_scored() -> None:
    """Guards against an evaluation ended by a single clip, and against one that continues with a broken recogniser."""
    audios = [Audio(torch.ones(length), SAMPLE_RATE) for length in (10, 20, 30)]
    assert recognised(Fragile({20}), audios, "en") == ["10", None, "30"]
    assert recognised(Fragile({20}), audios[1:2], "en") == [None]
    with pytest.raises(RuntimeError, match="broken"):
        recognised(Fragile({10, 20, 30}), audios, "en")
    with pytest.raises(ImportError):
        recognised(Fragile({20}, ImportError), audios, "en")
