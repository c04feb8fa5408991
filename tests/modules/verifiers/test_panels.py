"""Health, ensembles and partial transcripts: against naive computations, and on damaged speech."""

import itertools

import numpy as np
import pytest
import scipy.stats
import torch

from datamodules.sources.source import Recording
from modules.api import Audio, Candidate, Prompt, Verifier, models_of
from modules.verifiers.embeddings.resemblyzer import Resemblyzer
from modules.verifiers.ensemble import Ensemble, rank_scores, z_scores
from modules.verifiers.health import Health, longest_loop, longest_silence
from modules.verifiers.likelihood import Likelihood
from modules.verifiers.naturalness import Dnsmos
from modules.verifiers.recognisers.normalise import BasicWords
from modules.verifiers.speaker import Speaker
from modules.verifiers.transcript import Transcript, prefix_error_rate
from tests.toys.facts import VerifierToy

RATE = 16_000
NAN = float("nan")


class Fixed(VerifierToy):
    """Returns given scores."""

    families, worst_score, best_score, judges_partial = frozenset({"given"}), -9.0, 9.0, True

    def __init__(self, name: str, scores: list[float]) -> None:
        self.name, self.model_hash, self.scores = name, f"hash of {name}", scores

    def score(self, prompt: Prompt, candidates: list[Candidate]) -> torch.Tensor:
        return torch.tensor(self.scores[: len(candidates)], dtype=torch.float64)

    def flops(self, seconds: float) -> float:
        return 3.0 * seconds


def candidate(audio: Audio | None, codes: list[int] | None = None, is_partial: bool = False) -> Candidate:
    codes_S = torch.tensor([0, 1, 2, 3] if codes is None else codes)
    return Candidate("k", 0, 0, codes_S, -8.0, not is_partial, audio, is_partial=is_partial)


# ----------------------------------------------------------------------------------------------------------- ensemble


def test_z_and_rank_scores_are_those_of_scipy() -> None:
    """Guards against the sample's standard deviation, NaN that spoil a row, and ties ranked by their position."""
    rows = [[1.0, 2.0, 4.0, 4.0], [0.5, 0.5, 0.5, 0.5], [NAN, 3.0, 1.0, 2.0]]
    actual_z, actual_rank = z_scores(torch.tensor(rows).double()), rank_scores(torch.tensor(rows).double())
    for row, z, rank in zip(rows, actual_z, actual_rank, strict=True):
        known = ~np.isnan(row)
        values = np.array(row)[known]
        if np.ptp(values):
            np.testing.assert_allclose(z[known], scipy.stats.zscore(values))
        else:
            assert z.tolist() == [0.0] * 4
        np.testing.assert_allclose(rank[known], (scipy.stats.rankdata(values) - 1) / (len(values) - 1))
        assert z.isnan().tolist() == rank.isnan().tolist() == (~known).tolist()


@pytest.mark.parametrize(
    ("method", "weights", "best"), [("mean", None, 0), ("worst", None, 1), ("rank", None, 0), ("mean", [0.0, 1.0], 3)]
)
def test_each_method_prefers_what_it_should(method: str, weights: list[float] | None, best: int) -> None:
    """Guards against methods that are equal: the first is best by far for one member and bad for another."""
    members = [Fixed("a", [9.0, 1.2, 1.0, 0.0, 1.0]), Fixed("b", [0.5, 2.0, 1.9, 2.2, 0.0])]
    if method == "rank":
        members = [Fixed("a", [5.0, 4.0, 3.0, 2.0, NAN]), Fixed("b", [5.0, 1.0, 2.0, 99.0, 0.0])]
    candidates = [candidate(None)] * 5
    scores = Ensemble(members, method, weights).score(Prompt("k", "t"), candidates)
    assert int(scores.nan_to_num(-99).argmax()) == best
    assert scores.isnan().tolist() == [False] * 4 + [method == "rank"]


def test_disagreement_grows_with_contradiction() -> None:
    """Guards against a number that does not change if a member is reversed: equal scores 0, opposite ones |z|."""
    rising = [1.0, 2.0, 3.0, 4.0]
    agreeing = Ensemble([Fixed("a", rising), Fixed("b", [10.0, 20.0, 30.0, 40.0])])
    opposed = Ensemble([Fixed("a", rising), Fixed("b", rising[::-1])])
    assert np.isnan(agreeing.mean_disagreement)
    for ensemble in (agreeing, opposed):
        ensemble.score(Prompt("k", "t"), [candidate(None)] * 4)
    assert agreeing.mean_disagreement == pytest.approx(0, abs=1e-9)
    assert opposed.mean_disagreement == pytest.approx(np.abs(scipy.stats.zscore(rising)).mean())


def test_an_ensemble_needs_what_its_members_need_and_names_them() -> None:
    """Guards against an ensemble that is judged by one of its members under another hash."""
    speaker = Speaker(Resemblyzer())
    inner = Ensemble([Likelihood(), Fixed("a", [0.0])], name="inner")
    ensemble = Ensemble([speaker, inner])
    assert isinstance(ensemble, Verifier)
    assert models_of(ensemble) == {speaker.facts.model_hash, "likelihood", "hash of a"}
    assert ensemble.facts.needs_reference and not inner.facts.needs_reference
    assert Ensemble([inner, speaker]).facts.model_hash == ensemble.facts.model_hash != inner.facts.model_hash
    assert inner.flops(2.0) == 6.0
    with pytest.raises(ValueError, match="Expected `members` to be two or more, but got 1"):
        Ensemble([speaker])
    with pytest.raises(ValueError, match="Expected `members` to have different names"):
        _ = Ensemble([inner, inner]).facts
    with pytest.raises(ValueError, match="Expected `weights` to hold 2 numbers"):
        Ensemble([speaker, inner], weights=[1.0])
    with pytest.raises(ValueError, match="Expected `method`"):
        Ensemble([speaker, inner], "best")


def test_an_ensemble_ranks_clean_speech_of_the_voice_first(english_prompts: list[Recording]) -> None:
    """Guards against members that cancel each other out: noise at 5 dB must lower both, on 18 of 20 recordings."""
    ensemble = Ensemble([Speaker(Resemblyzer()), Dnsmos("p808_mos")])
    generator, count = torch.Generator().manual_seed(1), 0
    for place, recording in enumerate(english_prompts):
        clean_T = recording.audio.samples_T.repeat(2)[: int(2.5 * RATE)]
        noise_T = torch.randn(clean_T.numel(), generator=generator) * clean_T.square().mean().sqrt() * 10 ** (-5 / 20)
        reference = english_prompts[(place + 5) % 20].audio
        prompt = Prompt(recording.key, recording.text, reference=reference)
        pair = [candidate(Audio(clean_T, RATE)), candidate(Audio(clean_T + noise_T, RATE))]
        clean, noisy = ensemble.score(prompt, pair)
        count += bool(clean > noisy)
    assert count >= 18


# ------------------------------------------------------------------------------------------------------------- health


def naive_loop(codes: list[int], max_period: int) -> int:
    """Every stretch and every period, by definition."""
    longest = 0
    for start, stop in itertools.combinations(range(len(codes) + 1), 2):
        for period in range(1, min(max_period, (stop - start) // 2) + 1):
            if all(codes[i] == codes[i - period] for i in range(start + period, stop)):
                longest = max(longest, stop - start)
    return longest


def test_longest_loop_is_the_naive_one() -> None:
    """Guards against a period off by one and stretches joined across a break."""
    generator = np.random.default_rng(0)
    for _ in range(60):
        codes = generator.integers(0, 2, size=generator.integers(1, 16))
        assert longest_loop(codes, 4) == naive_loop(codes.tolist(), 4), codes
    assert longest_loop(np.array([1, 2, 3] * 5 + [9]), 4) == 15
    assert longest_loop(np.array([1, 2, 3] * 5), 2) == 0


def test_health_finds_what_is_wrong_in_recordings(english_prompts: list[Recording]) -> None:
    """Guards against checks that accept damaged speech or reject recordings: at least 18 of 20 recordings are healthy,
    and each damage is found in at least 18."""
    health = Health(max_silence_seconds=1.0)
    generator = np.random.default_rng(0)
    found = {"healthy": 0, "loop": 0, "silence": 0, "too long": 0, "too short": 0}
    for recording in english_prompts:
        prompt, samples_T = Prompt("k", recording.text), recording.audio.samples_T
        codes = generator.integers(0, 4096, size=round(50 * recording.audio.seconds)).tolist()
        found["healthy"] += health.problems(prompt, candidate(recording.audio, codes)) == []
        looped = codes[:30] + codes[10:30] * 4 + codes[30:]
        longer_T = torch.cat([samples_T, samples_T[: 80 * RATE // 50]])
        found["loop"] += "loop" in health.problems(prompt, candidate(Audio(longer_T, RATE), looped))
        quiet_T = torch.cat([samples_T[: RATE // 2], torch.zeros(int(1.2 * RATE)), samples_T[RATE // 2 :]])
        found["silence"] += "silence" in health.problems(prompt, candidate(Audio(quiet_T, RATE), codes))
        endless_T = samples_T.repeat(8)
        found["too long"] += "too long" in health.problems(prompt, candidate(Audio(endless_T, RATE), codes * 8))
        stub = Audio(samples_T[: int(0.015 * RATE * len(recording.text))], RATE)
        found["too short"] += health.problems(prompt, candidate(stub, codes[:10])) == ["too short"]
        assert "too short" not in health.problems(prompt, candidate(stub, codes[:10], is_partial=True))
    assert min(found.values()) >= 18, found


def test_health_scores() -> None:
    """Guards against a score for nothing, and a silence measured in frames."""
    health = Health()
    assert isinstance(health, Verifier)
    prompt = Prompt("k", "a few words")
    silent = candidate(Audio(torch.zeros(2 * RATE), RATE), [7] * 100)
    scores = health.score(prompt, [silent, candidate(None), candidate(Audio(torch.zeros(0), RATE), [])])
    assert scores.tolist()[0] == 0.5  # a loop and silence
    assert scores.isnan().tolist() == [False, True, True]
    tone_T = np.sin(np.arange(2 * RATE))
    tone_T[RATE // 2 : RATE] = 0
    assert longest_silence(tone_T, RATE, -50) == pytest.approx(0.5, abs=0.021)
    with pytest.raises(ValueError, match="Expected `max_seconds_per_character`"):
        Health(max_seconds_per_character=0.01)


# ------------------------------------------------------------------------------------------------ partial transcripts


def edit_distance(first: list[str], second: list[str]) -> int:
    """By definition, without a table."""
    if not first or not second:
        return len(first) + len(second)
    if first[0] == second[0]:
        return edit_distance(first[1:], second[1:])
    return 1 + min(
        edit_distance(first[1:], second), edit_distance(first, second[1:]), edit_distance(first[1:], second[1:])
    )


def test_prefix_error_rate_is_the_least_over_all_prefixes() -> None:
    """Guards against penalising a partial candidate for words not yet spoken, or forgiving wrong ones."""
    generator = np.random.default_rng(0)
    for _ in range(60):
        reference, heard = (list(generator.choice(list("abc"), size=n)) for n in generator.integers(0, 6, size=2))
        if not reference:
            continue
        expected = min(edit_distance(reference[:n], heard) for n in range(len(reference) + 1)) / len(reference)
        assert prefix_error_rate(" ".join(reference), " ".join(heard), "word") == pytest.approx(expected)
        assert prefix_error_rate("".join(reference), "".join(heard), "character") == pytest.approx(expected)
    with pytest.raises(ValueError, match="Expected `reference` to hold at least one word"):
        prefix_error_rate(" ", "one", "word")


def test_transcript_expects_of_partial_audio_a_prefix_only() -> None:
    """Guards against scoring partial candidates as whole ones, and ended ones as partial."""

    class Hearing:
        model_hash, families = "hearing", frozenset({"hearing"})

        def transcribe(self, audios: list[Audio], language: str) -> list[str]:
            return ["one two nine" if len(audio.samples_T) == 3000 else "one two" for audio in audios]

        def flops(self, seconds: float) -> float:
            return 0.0

    verifier = Transcript(Hearing(), BasicWords())
    assert verifier.facts.judges_partial and verifier.facts.needs_text
    clips = [Audio(torch.full((length,), 0.1), RATE) for length in (2000, 2000, 3000)]
    heard = [candidate(clip, is_partial=place != 1) for place, clip in enumerate(clips)]
    scores = verifier.score(Prompt("k", "one two three four"), heard)
    assert scores.tolist() == pytest.approx([1.0, 0.5, 0.75])
