"""Searches compared with best-of-n at equal FLOPs: against all subsets of the samples, and FLOPs computed by hand."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from modules.api import Prompt
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.analysis.curves import CurveCalculator
from modules.search.analysis.equal_compute import at_equal_compute
from modules.search.analysis.expected_best_of_n import CurvePoint
from modules.search.analysis.results import SweepResults, SweptPrompt, write_summary
from modules.search.panel import Panel
from modules.search.protocol import Trace
from modules.statistics import UNBOUNDED, Resamples, bootstrap_interval
from tests.modules.search.analysis.test_overoptimisation import traces_with, verifier

NUM_PROMPTS, NUM_SAMPLES = 30, 5
# traces_with: a candidate costs 10 - 4 FLOPs to sample without the prompt's 4, and 2 to decode. Each verifier's scoring
# costs 3.
PROMPT_FLOPS, SAMPLE_FLOPS, HEARING_FLOPS = 4.0, 8.0, 3.0


@pytest.fixture(scope="module")
def samples():
    """Scores of the samples by judge and selector, and the selector's line at every n."""
    generator = np.random.default_rng(0)
    judge = generator.uniform(size=(NUM_PROMPTS, NUM_SAMPLES))
    selector = judge + 0.3 * generator.normal(size=judge.shape)
    panel = Panel([verifier("selector")], [verifier("judge")])
    traces = traces_with({"selector": selector, "judge": judge})
    calculator = CurveCalculator("digits", BestOfN(NUM_SAMPLES, 8), traces, panel, 0, 4000, 1.0)
    return judge, selector, calculator.every_n()


def best_by_brute_force(judge: np.ndarray, selector: np.ndarray, n: int) -> np.ndarray:
    """Return (P,): mean over all subsets of n samples of the judge's score of the selected one."""
    subsets = list(itertools.combinations(range(NUM_SAMPLES), n))
    return np.array(
        [
            np.mean([judge_N[max(subset, key=lambda one: selector_N[one])] for subset in subsets])
            for judge_N, selector_N in zip(judge, selector, strict=True)
        ]
    )


def search_point(curve: list[CurvePoint], scores_P: np.ndarray, flops: float) -> CurvePoint:
    changes = {"algorithm": "beam", "n": 2, "score": float(scores_P.mean()), "flops": flops, "scores_P": scores_P}
    return replace(curve[0], **changes)


def test_every_n_is_the_mean_over_all_subsets_and_costs_what_its_samples_cost(samples):
    """Guards against a baseline only at powers of 2, and against one that counts the prompt more than once."""
    judge, selector, curve = samples
    assert [point.n for point in curve] == [1, 2, 3, 4, 5]
    for point in curve:
        np.testing.assert_allclose(point.scores_P, best_by_brute_force(judge, selector, point.n), atol=1e-12)
        heard = point.n * HEARING_FLOPS if point.n > 1 else 0  # no selection cost for one sample
        assert point.flops == pytest.approx(PROMPT_FLOPS + point.n * SAMPLE_FLOPS + heard)


def test_a_search_is_compared_with_samples_of_equal_flops(samples):
    """Guards against comparing at equal numbers of candidates: a search of 2 beams may cost 2.5 samples, or 50."""
    judge, selector, curve = samples
    scores_P = judge.mean(axis=1) + 0.2
    halfway = (curve[1].flops + curve[2].flops) / 2
    point = replace(search_point(curve, scores_P, halfway), ends=UNBOUNDED)
    (row,) = at_equal_compute([point], curve, seed=0)
    expected_P = (best_by_brute_force(judge, selector, 2) + best_by_brute_force(judge, selector, 3)) / 2
    assert (row.n, row.baseline_flops) == (pytest.approx(2.5), pytest.approx(halfway))
    assert row.baseline_score == pytest.approx(expected_P.mean())
    assert row.difference == pytest.approx((scores_P - expected_P).mean())
    spread = 1.96 * (scores_P - expected_P).std() / math.sqrt(NUM_PROMPTS)
    assert (row.low, row.high) == pytest.approx((row.difference - spread, row.difference + spread), abs=0.2 * spread)
    (bounded,) = at_equal_compute([replace(point, ends=(-1.0, 1.0))], curve, seed=0)
    expected = bootstrap_interval(scores_P - expected_P, Resamples.draw(NUM_PROMPTS, 0), (-2.0, 2.0))
    assert (bounded.low, bounded.high) == pytest.approx(expected) and bounded.low < row.low


def test_two_sizes_of_samples_are_not_mixed(samples):
    """Guards against a baseline whose first samples are of one search and whose last of another: its FLOPs may then
    decrease while n increases, and its prompts' scores are of two searches."""
    judge, selector, curve = samples
    dearer = [replace(one, algorithm="small", flops=100 * one.flops, scores_P=-one.scores_P) for one in curve[:2]]
    point = search_point(curve, judge.mean(axis=1), curve[3].flops)
    for baseline in ([*dearer, *curve], [*curve, *dearer]):
        (row,) = at_equal_compute([point], baseline, seed=0)
        assert (row.baseline, row.n) == ("best_of_n T=1: selector", 4)
        assert row.baseline_score == pytest.approx(best_by_brute_force(judge, selector, 4).mean())


def test_unmatched_flops_are_marked(samples):
    """Guards against a comparison that calls unequal budgets equal, and against rows for oracle and random lines."""
    judge, _, curve = samples
    expensive = search_point(curve, judge.mean(axis=1), 10 * curve[-1].flops)
    (row,) = at_equal_compute([expensive], curve, seed=0)
    assert (row.n, row.flops, row.baseline_flops) == (NUM_SAMPLES, expensive.flops, curve[-1].flops)
    unrunnable = [replace(expensive, selector="random"), replace(expensive, selector="oracle (judge)")]
    elsewhere = [
        replace(expensive, temperature=0.5),
        replace(expensive, prompt_set="words"),
        replace(expensive, judge="other"),
    ]
    assert at_equal_compute([*unrunnable, *elsewhere], curve, seed=0) == []


def test_unknown_flops_are_marked_in_their_row(samples, tmp_path):
    """Guards against a sweep that fails when the report is written because one verifier's FLOPs are unknown; and
    against a difference that is not at equal compute."""
    judge, _, curve = samples
    known = search_point(curve, judge.mean(axis=1), curve[2].flops)
    unknown = replace(known, flops=math.nan)
    dearer = [replace(one, flops=math.nan) for one in curve]
    first, second, third = (
        *at_equal_compute([unknown, known], curve, seed=0),
        *at_equal_compute([known], dearer, seed=0),
    )
    assert second.n == pytest.approx(3) and math.isfinite(second.difference)
    for row in (first, third):
        assert all(math.isnan(getattr(row, name)) for name in ("n", "difference", "low", "high", "p_value"))
        assert (row.search, row.score, row.differences_P) == ("beam T=1: selector", known.score, ())
    swept = SweptPrompt("", "beam", 1.0, 0, "set", Trace(Prompt("p", "text"), []))
    write_summary(SweepResults([swept], [unknown], {"verifiers": []}, equal_compute=[first]), tmp_path / "summary.json")
    (stored,) = json.loads((tmp_path / "summary.json").read_text())["equal_compute"]
    assert stored["n"] is None and stored["flops"] is None and stored["score"] == known.score
