"""Every search algorithm against a naive one on a toy sampler, and its cost estimate against the measured cost."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from modules.api import Prompt
from modules.search.algorithms.adaptive import Adaptive, expected_gain
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.algorithms.diverse_beam import DiverseBeam
from modules.search.algorithms.partial_beam import PartialBeam
from modules.search.algorithms.process_beam import ProcessBeam
from modules.search.costs import estimated_cost
from modules.search.driver import run_searches
from modules.search.growth import candidate_seed
from modules.search.protocol import SearchAlgorithm
from modules.search.scorer import Scorer
from tests.toys.search_toys import HOP_LENGTH, ToyCodec, ToyVerifier, TreeSampler, toy_prompts

SEED = 7


def level(samples_T: torch.Tensor) -> float:
    """Few distinct values, so that beams tie; NaN for some."""
    codes = (samples_T[::HOP_LENGTH] * 16).round().int().tolist()
    return math.nan if sum(codes) % 7 == 0 else sum(codes) // len(codes) / 4


def other_level(samples_T: torch.Tensor) -> float:
    return float((samples_T[::HOP_LENGTH] * 16).round().int().max())


class PartialVerifier(ToyVerifier):
    judges_partial = True


def selectors() -> list[ToyVerifier]:
    return [PartialVerifier("reward", level), PartialVerifier("other", other_level)]


def run(algorithm, prompts=None, sampler=None, codec=None, chosen_by=None, decode_batch_size=16):
    scorer = Scorer(codec or ToyCodec(), decode_batch_size)
    prompts, verifiers = prompts or toy_prompts(3), chosen_by or selectors()
    return run_searches(prompts, algorithm, sampler or TreeSampler(), scorer, verifiers, SEED)


def codes_of(trace) -> list[list[int]]:
    return [candidate.codes_S.tolist() for candidate in trace.candidates]


# ------------------------------------------------------------------------------------------------- the naive searches


def judge(codes: list[int]) -> float:
    """The reward, computed on audio decoded from the start; NaN ranks last."""
    if not codes:
        return -math.inf
    score = level(torch.tensor(codes).float().div(16).repeat_interleave(HOP_LENGTH))
    return -math.inf if math.isnan(score) else score


def draw(codes: list[int], seed: int, limit: int) -> tuple[list[int], bool]:
    while len(codes) < limit:
        code = TreeSampler().next_code(codes, seed)
        if code is None:
            return codes, True
        codes = [*codes, code]
    return codes, False


def naive_beams(prompt, num_beams, num_children, block, limit, path="") -> list[tuple[list[int], bool, int]]:
    """Return (codes, ended, seed) of the surviving beams: all children of a round in one list, sorted, truncated."""

    def seed_of(name) -> int:
        return candidate_seed(SEED, prompt.key, f"{path}{name}")

    beams = [([], False, None)]
    for start in range(0, limit, block):
        parents = [beam for beam in beams if not beam[1]]
        if not parents:
            break
        pool = [(-judge(codes), -1, place, (codes, True, seed)) for place, (codes, ended, seed) in enumerate(beams)
                if ended]  # fmt: skip
        for place, (codes, _, seed) in enumerate(parents):
            for child in range(num_children if start else num_beams * num_children):
                own = seed_of(child) if not start else seed_of(f"{start}.{place}.{child}") if child else seed
                grown, ended = draw(codes, own, min(start + block, limit))
                pool.append((-judge(grown), child, place, (grown, ended, own)))
        pool.sort(key=lambda one: one[:3])
        beams = [one[3] for one in pool[:num_beams]]
    return beams


@pytest.mark.parametrize(("num_beams", "num_children", "block"), [(1, 4, 5), (3, 2, 7), (4, 3, 25), (2, 5, 100)])
def test_process_beam_is_the_naive_search(num_beams, num_children, block):
    """Guards against another beam's audio, ended beams that lose their rank or are extended, ties that keep only one
    parent's children, and NaN that wins."""
    traces = run(ProcessBeam("reward", num_beams, num_children, 60, block), toy_prompts(6))
    num_ended = 0
    for prompt, trace in zip(toy_prompts(6), traces, strict=True):
        expected = naive_beams(prompt, num_beams, num_children, block, 60)
        assert codes_of(trace) == [codes for codes, _, _ in expected]
        assert [one.stopped for one in trace.candidates] == [ended for _, ended, _ in expected]
        assert [one.index for one in trace.candidates] == list(range(num_beams))
        num_ended += sum(one.stopped for one in trace.candidates)
        for candidate in trace.candidates:
            whole_T = (candidate.codes_S.float() / 16).repeat_interleave(HOP_LENGTH)
            assert torch.equal(candidate.audio.samples_T, whole_T)
            assert not candidate.is_partial
            assert set(candidate.scores) == {"reward", "other"}
    assert num_ended > 0


@pytest.mark.parametrize("algorithm", [ProcessBeam("reward", 5, 1, 60, 7), PartialBeam("reward", 5, 1, 1, 60, 20, 7)])
def test_one_child_per_beam_is_best_of_n(algorithm):
    """Guards against noise that restarts with every block: without selection, the beams are plain samples."""
    for trace, plain in zip(run(algorithm), run(BestOfN(5, 60)), strict=True):
        assert sorted(codes_of(trace)) == sorted(codes_of(plain))


def test_partial_beam_is_the_naive_search():
    """Guards against whole samples that continue another beam or repeat each other's noise, and against lost ended
    beams."""
    for trace in run(PartialBeam("reward", 3, 2, 4, 60, 20, 6), toy_prompts(8)):
        beams = naive_beams(trace.prompt, 3, 2, 6, 20)
        expected = [codes for codes, ended, _ in beams if ended]
        growing = [(codes, seed) for codes, ended, seed in beams if not ended]
        for place, (codes, seed) in enumerate(growing):
            for sample in range(4):
                own = candidate_seed(SEED, trace.prompt.key, f"whole.{place}.{sample}") if sample else seed
                expected.append(draw(codes, own, 60)[0])
        assert codes_of(trace) == expected
        assert [one.index for one in trace.candidates] == list(range(len(expected)))


def test_diverse_beam_is_many_naive_searches_in_one_batch():
    """Guards against subtrees that compete or share noise, results assigned to another subtree, and a sampler call for
    each."""
    together = TreeSampler()
    traces = run(DiverseBeam("reward", 6, 3, 60, 2, 10), sampler=together)
    assert len(together.extended) <= 6
    for trace in traces:
        trees = [naive_beams(trace.prompt, 2, 3, 10, 60, f"tree{index}.") for index in range(6)]
        assert codes_of(trace) == [tree[0][0] for tree in trees]
        assert len(trace.candidates) == 6


# ----------------------------------------------------------------------------------------------------------- adaptive


@pytest.mark.parametrize("scores", [[0.1], [0.5, 0.5, 0.5], [0.2, 0.9, 0.4, math.nan], [1.0, 0.0]])
def test_expected_gain_is_the_integral(scores):
    """Guards against a wrong sign or tail in the closed form, and NaN in the mean."""
    known = [score for score in scores if not math.isnan(score)]
    mean, best = np.mean(known), max(known)
    spread = math.sqrt((sum((score - mean) ** 2 for score in known) + 0.2**2) / len(known))
    density = scipy.stats.norm(mean, spread).pdf
    expected, _ = scipy.integrate.quad(lambda score: (score - best) * density(score), best, best + 20 * spread)
    assert expected_gain(scores, 0.2) == pytest.approx(expected, abs=1e-7)
    assert expected_gain([math.nan], 0.2) == math.inf
    assert expected_gain([1.0, 1.0], 0.0) == 0.0


def naive_adaptive(prompt, algorithm, is_sick) -> tuple[list[list[int]], int]:
    """One candidate after the other; returns how many were sampled."""
    kept, scores, drawn = [], [], 0
    while drawn < algorithm.max_candidates:
        for _ in range(min(algorithm.round_size, algorithm.max_candidates - drawn)):
            seed, codes, sick, ended = candidate_seed(SEED, prompt.key, drawn), [], False, False
            drawn += 1
            for limit in range(algorithm.block_tokens, 1000, algorithm.block_tokens):
                codes, ended = draw(codes, seed, min(limit, algorithm.max_new_tokens))
                if ended or limit >= algorithm.max_new_tokens:
                    break
                if sick := is_sick(codes):
                    break
            if not sick:
                kept.append(codes)
                scores.append(judge(codes))
        known = [score for score in scores if score > -math.inf]
        if any(score >= (algorithm.perfect_score or math.inf) for score in known):
            break
        if known and expected_gain(known, algorithm.prior_spread) < algorithm.price:
            break
    return kept, drawn


@pytest.mark.parametrize(
    ("settings", "healthy"),
    [({"price": 0.0}, 99), ({"price": 0.05}, 99), ({"price": 0.2}, 99), ({"price": 0.0, "perfect_score": 2.0}, 99),
     ({"price": 0.1}, 9.2)],
)  # fmt: skip
def test_adaptive_is_a_loop_over_single_candidates(settings, healthy):
    """Guards against rounds that forget earlier scores, an exceeded budget, and unhealthy candidates that are returned
    or sampled to their end."""
    algorithm = Adaptive("reward", 10, 60, round_size=3, block_tokens=8, health="health", **settings)
    health = PartialVerifier("health", lambda samples_T: float(samples_T.mean() * 16 < healthy))
    sampler, num_drawn, num_sick = TreeSampler(), [], 0
    for trace in run(algorithm, toy_prompts(6), sampler, chosen_by=[*selectors(), health]):
        kept, drawn = naive_adaptive(
            trace.prompt, algorithm, lambda codes: np.float32(np.mean(codes)) >= np.float32(healthy)
        )
        assert codes_of(trace) == kept
        num_drawn.append(drawn)
        num_sick += drawn - len(kept)
    assert (num_sick > 0) == (healthy < 99)
    assert (min(num_drawn) < 10) == (settings != {"price": 0.0})
    assert not sampler.alive


def test_adaptive_returns_a_candidate_if_all_are_unhealthy():
    """Guards against a prompt without a candidate, which would be missing in every mean."""
    health = PartialVerifier("health", lambda samples_T: 0.0)
    sampler = TreeSampler(num_codes=40)
    algorithm = Adaptive("reward", 4, 60, block_tokens=10, health="health", price=0.0)
    for trace in run(algorithm, sampler=sampler, chosen_by=[*selectors(), health]):
        assert [(one.num_codes, one.stopped, one.index) for one in trace.candidates] == [(10, False, 0)]
        assert "reward" in trace.candidates[0].scores
    assert sampler.num_tokens == 3 * 4 * 10


# ------------------------------------------------------------------------------------------------------------- costs

ALGORITHMS = [
    BestOfN(6, 60),
    ProcessBeam("reward", 3, 2, 60, 10),
    PartialBeam("reward", 3, 2, 4, 60, 20, 10),
    DiverseBeam("reward", 4, 3, 60, 2, 10),
    Adaptive("reward", 6, 60, price=0.0, health="other", block_tokens=10, min_health=-1.0),
    Adaptive("reward", 6, 60, price=0.0),
]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda one: one.name)
@pytest.mark.parametrize("num_codes", [5, 20, 47, 60])
def test_the_estimate_is_what_is_spent(algorithm, num_codes):
    """Guards against an estimate or a record that omits a block, the prompt, a partial score or the last decoding: with
    candidates of a known length both must agree with each other and with the calls of sampler, codec and verifiers."""
    sampler, codec, chosen_by = TreeSampler(num_codes), ToyCodec(), selectors()
    heard = []
    for verifier in chosen_by:
        verifier.function = lambda samples_T: heard.append(samples_T.numel()) or 0.5
    prompt = Prompt("key", "some text")
    (trace,) = run(algorithm, [prompt], sampler, codec, chosen_by, decode_batch_size=1)
    assert isinstance(algorithm, SearchAlgorithm)
    cost = trace.cost_with([one.name for one in chosen_by])
    assert cost.lm_flops == pytest.approx(1000 * (len(prompt.text) + sampler.num_tokens))
    decoded = sum(shape[1] - start for shape, start in zip(codec.batches, codec.starts, strict=True))
    assert cost.codec_flops == pytest.approx(10 * decoded)
    assert cost.verifier_flops == pytest.approx(100 * sum(heard) / ToyCodec.sample_rate)
    estimate = algorithm.estimate(num_codes)
    assert estimate.num_tokens == sampler.num_tokens
    expected = estimated_cost(estimate, sampler, codec, chosen_by, len(prompt.text))
    for part in ("lm_flops", "codec_flops", "verifier_flops", "prompt_flops"):
        assert getattr(expected, part) == pytest.approx(getattr(cost, part)), part


def test_partial_audio_is_never_decoded_from_the_start_and_branches_are_freed():
    """Guards against a search whose cost is quadratic in its length, and against caches of discarded beams."""
    sampler, codec = TreeSampler(num_codes=55), ToyCodec()
    run(ProcessBeam("reward", 2, 3, 60, 10), toy_prompts(1), sampler, codec)
    assert codec.starts == [0, 10, 20, 30, 40, 0]
    assert [shape[0] for shape in codec.batches] == [6] * 6
    assert sampler.max_alive <= 2 + 6
    assert not sampler.alive


def test_wrong_verifiers_are_refused_before_sampling():
    """Guards against hours of sampling before an error for a wrong name or a verifier that needs whole audio."""
    sampler = TreeSampler()
    with pytest.raises(ValueError, match="Expected the reward of process_beam to be one of the selectors"):
        run(ProcessBeam("absent", 2, 2, 20), sampler=sampler)
    with pytest.raises(ValueError, match="to judge partial audio, but got 'whole'"):
        run(ProcessBeam("whole", 2, 2, 20), sampler=sampler, chosen_by=[ToyVerifier("whole", level)])
    with pytest.raises(ValueError, match="Expected `max_new_tokens` to be above `process_tokens`=100, but got 100"):
        PartialBeam("reward", 2, 2, 2, 100)
    with pytest.raises(ValueError, match="Expected `num_beams` to be at least 1, but got 0"):
        ProcessBeam("reward", 0, 2, 20)
    with pytest.raises(ValueError, match="Expected `price` to be at least 0"):
        Adaptive("reward", 2, 2, price=-1)
    assert sampler.extended == []
