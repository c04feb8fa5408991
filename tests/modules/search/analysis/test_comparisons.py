"""Paired comparisons of lines: against scipy, and against single pairs."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from modules.search.algorithms.best_of_n import BestOfN
from modules.search.analysis import comparisons as comparison_module
from modules.search.analysis import curves, seeds
from modules.search.analysis.comparisons import compare
from modules.search.analysis.curves import CurveCalculator
from modules.search.analysis.equal_compute import at_equal_compute
from modules.search.panel import Panel
from modules.search.protocol import Trace
from modules.statistics import (
    ClusterResamples,
    Resamples,
    bootstrap_interval,
    cluster_interval,
    difference_ends,
    sign_flip_p_value,
)
from tests.modules.search.analysis.test_overoptimisation import calculated, traces_with, verifier


@pytest.mark.parametrize("num_prompts", [7, 30])
def test_sign_flip_test_is_scipys(num_prompts):
    """Guards against a one-sided or unpaired test."""
    differences_P = np.random.default_rng(num_prompts).normal(0.25, 1, size=num_prompts)
    theirs = scipy.stats.permutation_test(
        (differences_P, np.zeros(num_prompts)), lambda x, y, axis=-1: (x - y).mean(axis), permutation_type="samples",
        vectorized=True, n_resamples=20_000, rng=np.random.default_rng(1),
    )  # fmt: skip
    assert sign_flip_p_value(differences_P, 0) == pytest.approx(theirs.pvalue, abs=1e-9 if num_prompts < 12 else 0.015)


def test_comparisons_are_paired_over_prompts():
    """Guards against intervals of independent samples: prompts differ by far more than the selectors do. References:
    scipy's bootstrap of the difference, and the random line computed by hand."""
    generator = np.random.default_rng(0)
    level = 10 * generator.normal(size=(40, 1))
    judge = level + generator.normal(size=(40, 8))
    scores = {
        "good": judge + 0.5 * generator.normal(size=(40, 8)),
        "poor": generator.normal(size=(40, 8)),
        "judge": judge,
    }
    traces = traces_with(scores)
    points = calculated(traces, Panel([verifier("good"), verifier("poor")], [verifier("judge")]))
    comparisons = {(one.first.split()[-1], one.second.split()[-1], one.n): one for one in compare(points, 0, 4000)}
    one = comparisons["good", "poor", 8]
    chosen = {name: judge[np.arange(40), scores[name].argmax(1)] for name in ("good", "poor")}
    assert one.difference == pytest.approx((chosen["good"] - chosen["poor"]).mean())
    theirs = scipy.stats.bootstrap(
        (chosen["good"] - chosen["poor"],), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert (one.low, one.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)
    assert one.high - one.low < 1.5 < 4 < 4 * level.std() / math.sqrt(40)
    assert one.p_value < 0.01 < comparisons["random", "poor", 8].p_value
    for point in points:
        if point.selector == "good":
            assert point.gain == pytest.approx(point.score - judge.mean())
            if point.n > 1:
                one = comparisons["random", "good", point.n]
                assert (point.gain_low, point.gain_high) == pytest.approx((-one.high, -one.low), abs=0.05)


@pytest.mark.parametrize("num_prompts", [9, 40])
def test_all_pairs_at_once_are_every_pair_by_itself(num_prompts, monkeypatch):
    """Guards against another pair's numbers, and against signs and resamples drawn for every pair: references are a
    naive sign-flip test, with ties, and `bootstrap_interval` of one pair."""
    generator = np.random.default_rng(3)
    judge = generator.integers(0, 3, size=(num_prompts, 4)) / 2.0
    traces = traces_with({"judge": judge} | {name: generator.normal(size=judge.shape) for name in ("a", "b", "c")})
    speakers = [f"s{place % 5}" for place in range(num_prompts)]
    traces = [
        Trace(replace(trace.prompt, speaker=name), trace.candidates)
        for trace, name in zip(traces, speakers, strict=True)
    ]
    points = calculated(traces, Panel([verifier(name) for name in "abc"], [verifier("judge")]))
    drawn = []
    for owner, name in ((comparison_module, "sign_patterns"), (Resamples, "draw"), (ClusterResamples, "draw")):
        own = getattr(owner, name)
        label = getattr(owner, "__qualname__", name)
        monkeypatch.setattr(owner, name, lambda *args, own=own, label=label: (drawn.append(label), own(*args))[1])
    found = compare(points, 5, 300)
    assert sorted(drawn) == ["ClusterResamples", "Resamples", "Resamples", "sign_patterns"]  # clusters have their own
    scores = {(f"best_of_n T={0.7:g}: {one.selector}", one.n): one.scores_P for one in points}
    assert len(found) == 2 * math.comb(4, 2)  # n = 2 and 4: random, a, b, c; at n = 1 they coincide
    for one in found:
        difference_P = scores[one.first, one.n] - scores[one.second, one.n]
        if num_prompts <= 12:
            signs = np.array(list(itertools.product((-1, 1), repeat=num_prompts)))
        else:
            signs = 2 * np.random.default_rng(5).integers(0, 2, size=(10_000, num_prompts)) - 1
        as_large = sum(abs(math.fsum(row * difference_P)) >= abs(difference_P.sum()) - 1e-12 for row in signs)
        expected = as_large / len(signs) if num_prompts <= 12 else (as_large + 1) / (len(signs) + 1)
        assert one.p_value == expected == sign_flip_p_value(difference_P, 5)
        ends = difference_ends(points[0].ends)
        interval = bootstrap_interval(difference_P, Resamples.draw(num_prompts, 5, 300), ends)
        assert (one.low, one.high) == pytest.approx(interval)
        assert (one.speaker_low, one.speaker_high) == pytest.approx(
            cluster_interval(difference_P, speakers, 5, 300, ends)
        )


def test_resamples_are_drawn_once_for_all_points(monkeypatch):
    """Guards against minutes of resampling for the lines at every n: the same resamples, again for each point."""
    scores = np.random.default_rng(0).normal(size=(30, 8))
    traces = traces_with(dict.fromkeys(("a", "judge"), scores))
    calculator = CurveCalculator("set", BestOfN(8, 10), traces, Panel([verifier("a")], [verifier("judge")]), 0, 50)
    points, every_n = calculator.points(), calculator.every_n()
    drawn = []
    own = Resamples.draw
    monkeypatch.setattr(
        Resamples, "draw", lambda num, seed, num_resamples: drawn.append(num) or own(num, seed, num_resamples)
    )
    assert len(curves.with_gains(points, 0, 50)) == len(points) and len(drawn) == 1
    assert len(seeds.averaged([every_n, every_n], 0, 50)) == len(every_n) == 8 and len(drawn) == 2  # without random
    searches = [replace(point, algorithm="beam") for point in every_n]
    assert len(at_equal_compute(searches, every_n, 0, 50)) == 8 and len(drawn) == 3


def test_lines_of_one_search_are_not_compared_at_one_candidate():
    """Guards against a table full of pairs that are one line, and against searches that lose their comparison there."""
    scores = np.random.default_rng(0).normal(size=(8, 2))
    panel = Panel([verifier("a")], [verifier("judge")])
    warm = calculated(traces_with({"a": scores, "judge": scores}), panel)
    cold = [replace(one, temperature=0.5) for one in warm]
    pairs = {
        (one.first.split(":")[0], one.second.split(":")[0]) for one in compare([*warm, *cold], 0, 50) if one.n == 1
    }
    assert pairs == {("best_of_n T=0.7", "best_of_n T=0.5")}
