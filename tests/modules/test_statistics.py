"""Intervals: coverage by simulation, the exact Beta quantiles at the edge, naive loops, and scipy where it applies."""

import math

import numpy as np
import pytest
import scipy.stats

from modules.search.analysis.expected_best_of_n import ends_of
from modules.statistics import (
    UNBOUNDED,
    ClusterResamples,
    Resamples,
    bootstrap_interval,
    bootstrap_intervals,
    cluster_interval,
    difference_ends,
    ratio_intervals,
    spread_interval,
)
from modules.verifiers.embeddings.resemblyzer import Resemblyzer
from modules.verifiers.ensemble import Ensemble
from modules.verifiers.health import Health
from modules.verifiers.likelihood import Likelihood
from modules.verifiers.naturalness import DistillMos
from modules.verifiers.speaker import Speaker

NUM_SIMULATIONS = 300  # a coverage of .95 is estimated with a standard error of .013


def simulated(kind: str, num_prompts: int, error: float) -> tuple[np.ndarray, float, tuple[float, float]]:
    """(simulations, prompts) values, their true mean, and the ends of their range."""
    generator = np.random.default_rng([num_prompts, round(1000 * error)])
    shape = (NUM_SIMULATIONS, num_prompts)
    difficulty = generator.random(shape)
    if kind == "right or wrong":
        return (difficulty >= error).astype(float), 1 - error, (0.0, 1.0)
    if kind == "share of six words":
        return 1 - generator.binomial(6, error, shape) / 6, 1 - error, (0.0, 1.0)
    if kind == "skewed":  # most prompts nearly correct, a few far off
        share = generator.beta(0.2, 0.2 * (1 - error) / error, shape) if error else np.zeros(shape)
        return 1 - share, 1 - error, (0.0, 1.0)
    if kind == "paired, right or wrong":  # a better system fails at the hardest half of the other's failures
        better, worse = difficulty >= error / 2, generator.random(shape) >= error
        return better.astype(float) - worse, error / 2, (-1.0, 1.0)
    if kind == "paired, without errors in one":
        return 1.0 - (difficulty >= error), error, (-1.0, 1.0)
    assert kind == "paired shares"
    worse, better = generator.binomial(6, error, shape), generator.binomial(6, error / 2, shape)
    return (worse - better) / 6, error / 2, (-1.0, 1.0)


@pytest.mark.parametrize("num_prompts", [32, 100])
@pytest.mark.parametrize(
    "kind",
    [
        "right or wrong",
        "share of six words",
        "skewed",
        "paired, right or wrong",
        "paired, without errors in one",
        "paired shares",
    ],
)
def test_intervals_cover_the_true_mean(kind, num_prompts):
    """Guards against intervals that claim 95 % and contain the true mean in half of all samples, or never: the
    percentile bootstrap near the end of a range (32 of 32 correct gave [1, 1]). 300 simulations each."""
    resamples = Resamples.draw(num_prompts, 1, 1000)
    for error in (0.0, 0.02, 0.05, 0.2):
        values, mean, ends = simulated(kind, num_prompts, error)
        low, high = bootstrap_intervals(values, resamples, ends).T
        covered = np.mean((low <= mean + 1e-12) & (mean - 1e-12 <= high))
        assert covered >= 0.9, f"{kind}, {num_prompts} prompts, error {error}: {covered:.3f}"


@pytest.mark.parametrize("num_utterances", [32, 100])
def test_intervals_of_a_corpus_error_rate_cover_it(num_utterances):
    """Guards against another rule for errors over words than for means: independent word errors, and failures of whole
    utterances. 300 simulations each."""
    generator = np.random.default_rng(num_utterances)
    words = generator.integers(3, 21, num_utterances)
    resamples = Resamples.draw(num_utterances, 1, 1000)
    shape = (NUM_SIMULATIONS, num_utterances)
    for error in (0.0, 0.02, 0.05, 0.2):
        for errors in (generator.binomial(words, error, shape), (generator.random(shape) < error) * words):
            low, high = ratio_intervals(errors.astype(float), words.astype(float), resamples, (0.0, 1.0)).T
            assert np.mean((low <= error + 1e-12) & (error - 1e-12 <= high)) >= 0.9
            assert np.all(high > 0)


@pytest.mark.parametrize("num_prompts", [5, 32])
def test_where_all_are_right_the_interval_is_that_of_a_beta_distribution(num_prompts):
    """Guards against [1, 1]. With all weight but one half-prompt's at 1 the mean is Beta(U + 1/2, 1/2): its exact
    quantile. A difference that is 0 everywhere is symmetric around 0."""
    resamples = Resamples.draw(num_prompts, 0, 10_000)
    low, high = bootstrap_interval(np.ones(num_prompts), resamples, (0.0, 1.0))
    assert high == 1.0
    assert low == pytest.approx(scipy.stats.beta.ppf(0.025, num_prompts + 0.5, 0.5), abs=0.1 * (1 - low))
    low, high = bootstrap_interval(np.zeros(num_prompts), resamples, difference_ends((0.0, 1.0)))
    assert low < 0 < high and -low == pytest.approx(high, rel=0.1)


def test_an_interval_is_the_hull_of_two_naive_loops():
    """Guards against quantiles of the values instead of the means, and a Bayesian part that is omitted or has its
    pseudo-prompts at the wrong ends: prompt by prompt, with weights from numpy's Dirichlet."""
    values_P = np.random.default_rng(1).gamma(2.0, size=40)
    ends = (0.0, 15.0)
    got = bootstrap_interval(values_P, Resamples.draw(40, seed=5, num_resamples=20_000), ends)
    drawn = np.random.default_rng(5).integers(0, 40, size=(20_000, 40))
    means = values_P[drawn].mean(1)
    weights = np.random.default_rng(8).dirichlet([0.5, *[1.0] * 40, 0.5], 20_000)
    bayesian = weights @ np.array([ends[0], *values_P, ends[1]])
    lows, highs = zip(*(np.quantile(one, [0.025, 0.975]) for one in (means, bayesian)), strict=True)
    assert got == pytest.approx((min(lows), max(highs)), abs=0.05)
    assert max(highs) > np.quantile(means, 0.975) + 0.1, "a high end far away must show"


def test_without_a_known_range_it_is_the_hull_of_the_plain_bootstraps():
    """Guards against pseudo-prompts at invented ends or at infinity; with one unknown end there are none at all."""
    values_P = np.random.default_rng(2).normal(size=60)
    resamples = Resamples.draw(60, 3, 9000)
    low, high = bootstrap_interval(values_P, resamples)
    theirs = scipy.stats.bootstrap(
        (values_P,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(9)
    ).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.03)
    assert low <= np.quantile(resamples.counts_RU @ values_P / 60, 0.025)
    for ends in ((-math.inf, 5.0), (-5.0, math.inf), UNBOUNDED):
        assert bootstrap_interval(values_P, resamples, ends) == (low, high)


def test_systems_are_paired():
    """Guards against independent resamples: a system that is always better by 0.1 differs without any spread."""
    values_P = np.random.default_rng(2).normal(size=30)
    first = bootstrap_interval(values_P, Resamples.draw(30, seed=3))
    second = bootstrap_interval(values_P + 0.1, Resamples.draw(30, seed=3))
    assert np.subtract(second, first) == pytest.approx([0.1, 0.1])


def test_rows_at_once_are_each_row_by_itself():
    """Guards against swapped axes, and against a ratio whose pseudo-utterance has one word."""
    generator = np.random.default_rng(4)
    errors_KU, words_U = generator.random((3, 20)), generator.integers(1, 30, 20).astype(float)
    resamples = Resamples.draw(20, 0, 300)
    together = ratio_intervals(errors_KU, words_U, resamples, (0.0, 1.0))
    for row, (low, high) in zip(errors_KU, together, strict=True):
        ((alone_low, alone_high),) = ratio_intervals(row[None], words_U, resamples, (0.0, 1.0))
        assert (low, high) == pytest.approx((alone_low, alone_high))
        scaled = ratio_intervals(10 * row[None], 10 * words_U, resamples, (0.0, 1.0))[0]
        assert scaled == pytest.approx((low, high)), "errors and words in other units are the same rate"
    means = bootstrap_intervals(errors_KU, resamples, (0.0, 1.0))
    assert ratio_intervals(5 * errors_KU, np.full(20, 5.0), resamples, (0.0, 1.0)) == pytest.approx(means)
    with pytest.raises(ValueError, match="Expected values of 20 units"):
        bootstrap_interval(np.zeros(19), resamples)


def test_clusters_are_resampled_whole_and_weigh_by_their_size():
    """Guards against an interval over prompts reported as one over speakers, and a mean of speakers' means: against a
    loop that resamples speakers, and one that weights every prompt by its speaker's weight."""
    generator = np.random.default_rng(0)
    sizes = [1, 3, 5, 8] * 3
    speakers = [f"s{place:02}" for place, size in enumerate(sizes) for _ in range(size)]
    values_P = np.repeat(generator.normal(size=12), sizes) + 0.2 * generator.normal(size=sum(sizes))
    got = cluster_interval(values_P, speakers, seed=3, num_resamples=9000)
    own = [values_P[[one == name for one in speakers]] for name in sorted(set(speakers))]
    drawn = np.random.default_rng(3).integers(0, 12, size=(9000, 12))
    means = [np.concatenate([own[place] for place in row]).mean() for row in drawn]
    weights_RP = np.repeat(np.random.default_rng(8).dirichlet(np.ones(12), 9000), sizes, axis=1)
    bayesian = weights_RP @ values_P / weights_RP.sum(1)
    lows, highs = zip(*(np.quantile(one, [0.025, 0.975]) for one in (means, bayesian)), strict=True)
    assert got == pytest.approx((min(lows), max(highs)), abs=0.04)
    prompts = bootstrap_interval(values_P, Resamples.draw(sum(sizes), 3, 4000))
    assert got[1] - got[0] > 1.5 * (prompts[1] - prompts[0])
    right = cluster_interval(np.ones(sum(sizes)), speakers, 3, 4000, (0.0, 1.0))
    assert right[0] < scipy.stats.beta.ppf(0.025, sum(sizes) + 0.5, 0.5) and right[1] == 1.0
    for nobody in (["", *speakers[1:]], ["a"] * len(speakers)):
        assert ClusterResamples.draw(nobody, 0) is None
        assert all(map(math.isnan, cluster_interval(values_P, nobody, 3)))


def test_the_spread_of_resamples_is_centred_on_the_value():
    """Guards against an interval of distinct counts that excludes its own value."""
    drawn_R = np.random.default_rng(0).normal(0.6, 0.1, 20_000)
    low, high = spread_interval(0.8, drawn_R)
    assert (low, high) == pytest.approx((0.8 - 0.196, 0.8 + 0.196), abs=0.005)


def test_scores_without_ends_get_intervals_of_their_own_width() -> None:
    """Guards against taking a placeholder for the worst score as a reachable end: intervals of a clear change of an
    ensemble's z-scores, and of log-probabilities of speech, would then be uninformative."""
    generator = np.random.default_rng(0)
    resamples = Resamples.draw(32, 0)
    members = [Likelihood(), Health()]
    change_U = generator.normal(1.2, 0.6, 32)
    for method in ("mean", "worst"):
        ends = difference_ends(ends_of(Ensemble(members, method)))
        assert bootstrap_interval(change_U, resamples, ends)[0] > 0.5
    assert ends_of(Ensemble(members, "rank")) == (-1.0, 1.0) and ends_of(Health()) == (0.0, 1.0)
    low, high = bootstrap_interval(generator.normal(-2, 0.3, 32), resamples, ends_of(Likelihood()))
    assert high - low < 0.4  # a normal interval has .21
    for graded in (Speaker(Resemblyzer()), DistillMos()):
        low, high = bootstrap_interval(generator.normal(0.6, 0.05, 32), resamples, ends_of(graded))
        assert 0.02 < high - low < 0.05  # a normal interval has .035; with pseudo-units on the scale [-1, 1] .13


def test_a_ratio_without_denominators_is_unknown() -> None:
    """Guards against a crash if no utterance has words."""
    assert np.isnan(ratio_intervals(np.zeros((1, 3)), np.zeros(3), Resamples.draw(3, 0))).all()
