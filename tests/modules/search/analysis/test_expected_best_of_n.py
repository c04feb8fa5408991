"""Expected best-of-n against all subsets, intervals against scipy and a naive loop."""

import itertools
import math
import random

import numpy as np
import pytest

from modules.search.analysis.expected_best_of_n import (
    JudgedPrompt,
    candidate_counts,
    expected_scores,
    judged_only_score,
    selection_weights,
)

NAN = float("nan")


def brute_force(selector: list[float], metric: list[float], n: int) -> float:
    """Mean over all subsets of n of the best one by the selector, with random ties; NaN ranks last."""
    value = [(-1, 0.0) if math.isnan(score) else (0, score) for score in selector]
    total, num_subsets = 0.0, 0
    for subset in itertools.combinations(range(len(selector)), n):
        best = max(value[place] for place in subset)
        winners = [place for place in subset if value[place] == best]
        total += sum(metric[place] for place in winners) / len(winners)
        num_subsets += 1
    return total / num_subsets


CASES = {
    "distinct": [3.0, 1.0, 2.0, 5.0, 4.0, -7.5, 0.0],
    "ties": [1.0, 1.0, 2.0, 2.0, 2.0, 0.0, 1.0],
    "all tied": [1.0] * 7,
    "some missing": [NAN, 1.0, NAN, 0.0, 2.0, 2.0, NAN],
    "all missing": [NAN] * 7,
    "minus infinity above missing": [-math.inf, NAN, -math.inf, 1.0, 1.0, NAN, 0.0],
}


@pytest.mark.parametrize("selector", CASES.values(), ids=CASES.keys())
def test_expected_best_of_n_is_the_mean_over_all_subsets(selector):
    """Guards against an off-by-one in the ranks, ties broken by position, and NaN sorted above the scores."""
    metric = [0.1, 0.9, 0.4, 0.2, 0.7, 0.3, 0.8]
    for n in range(1, 8):
        weights_N = selection_weights(np.array(selector), n)
        assert weights_N.sum() == pytest.approx(1.0)
        assert weights_N @ np.array(metric) == pytest.approx(brute_force(selector, metric, n), abs=1e-12)


def test_random_cases_equal_all_subsets():
    """Guards against errors that the selected cases miss: 60 random ones with ties and gaps."""
    chance = random.Random(0)
    for _ in range(60):
        num_candidates = chance.randint(1, 8)
        selector = [chance.choice([NAN, 0.0, 1.0, 2.0, chance.random()]) for _ in range(num_candidates)]
        metric = [chance.random() for _ in range(num_candidates)]
        for n in range(1, num_candidates + 1):
            weights_N = selection_weights(np.array(selector), n)
            assert weights_N @ np.array(metric) == pytest.approx(brute_force(selector, metric, n), abs=1e-12)


def test_large_numbers_stay_exact():
    """Guards against overflow of the binomials: with 1,000 distinct scores the best of 500 is near the top."""
    weights_N = selection_weights(np.arange(1000.0), 500)
    assert weights_N.sum() == pytest.approx(1.0)
    assert weights_N[-1] == pytest.approx(0.5)  # the best one is in half of all subsets of half the size


def test_unjudged_and_runaways_count_as_worst():
    """Guards against failed candidates excluded from the mean (survivorship bias): they count as the worst score, and
    the mean over scored ones is another number."""
    prompt = JudgedPrompt.from_scores(
        np.array([0.9, NAN, 0.5, 0.8]), stopped_N=np.array([True, True, True, False]), worst_score=-1.0
    )
    uniform_N = np.full(4, 0.25)
    assert expected_scores([prompt], [uniform_N])[0] == pytest.approx((0.9 - 1 + 0.5 - 1) / 4)
    assert judged_only_score([prompt], [uniform_N]) == pytest.approx(((0.9 + 0.5) / 2, 0.5))
    only_bad_N = np.array([0.0, 0.5, 0.0, 0.5])
    assert expected_scores([prompt], [only_bad_N])[0] == -1.0
    assert math.isnan(judged_only_score([prompt], [only_bad_N])[0])


def test_candidate_counts_end_at_all():
    """Guards against a curve that stops before N if N is not a power of two."""
    assert candidate_counts(1) == [1]
    assert candidate_counts(16) == [1, 2, 4, 8, 16]
    assert candidate_counts(12) == [1, 2, 4, 8, 12]


@pytest.mark.parametrize("n", [0, 4])
def test_impossible_n_is_refused(n):
    """Guards against a silent zero for n above the number of candidates."""
    with pytest.raises(ValueError, match=r"Expected `n` in \[1, 3\]"):
        selection_weights(np.zeros(3), n)
