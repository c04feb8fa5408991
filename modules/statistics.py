"""95 % intervals over prompts, utterances or speakers: one definition for all tables. Functions on numpy arrays.

An interval is the hull of two. The percentile bootstrap (Efron 1979) alone is too narrow near the end of a score's
range: where all of 32 are right it is [1, 1], and at 2 % errors it holds the true mean in half of all samples. The
Bayesian bootstrap (Rubin 1981) weighs the units by a Dirichlet distribution; where the score's range is known, half a
pseudo-unit stands at each of its ends, for what 32 units cannot have shown. Without a known range there is nothing to
put there, and the interval is too narrow where the values happen to lie closer together than those of the population.

Shapes: U units, C clusters of units (a speaker's prompts), R resamples, K systems.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Ends = tuple[float, float]  # the lowest and the highest value that a unit can have
UNBOUNDED: Ends = (-math.inf, math.inf)
NUM_RESAMPLES = 2000


def interval_label(units: str, num_resamples: int = NUM_RESAMPLES) -> str:
    """How the intervals were made, for evaluation cards."""
    return f"95 %, hull of percentile and Bayesian bootstrap over {units}, {num_resamples} resamples"


def difference_ends(ends: Ends) -> Ends:
    """The ends of a difference of two values that each lie within `ends`."""
    return ends[0] - ends[1], ends[1] - ends[0]


def resample_counts(num_units: int, seed: int, num_resamples: int = NUM_RESAMPLES) -> np.ndarray:
    """(R, U) how often each unit is drawn in each resample with replacement."""
    if num_units < 1:
        raise ValueError(f"Expected `num_units` to be at least 1, but got {num_units}.")
    drawn_RU = np.random.default_rng(seed).integers(0, num_units, size=(num_resamples, num_units))
    return np.stack([np.bincount(drawn_U, minlength=num_units) for drawn_U in drawn_RU])


@dataclass(frozen=True)
class Resamples:
    """Both bootstraps' weights of U units. Systems on the same units share them, which makes their differences paired.

    `counts_RU`: of the percentile bootstrap. `weights_RU` (exponential) and `pseudo_R2` (gamma, shape 1/2; of the
    pseudo-units at the low and the high end): of the Bayesian one, a Dirichlet's before division by their sum.
    """

    counts_RU: np.ndarray
    weights_RU: np.ndarray
    pseudo_R2: np.ndarray

    @classmethod
    def draw(cls, num_units: int, seed: int, num_resamples: int = NUM_RESAMPLES) -> "Resamples":
        """A pure function of its arguments."""
        counts_RU = resample_counts(num_units, seed, num_resamples).astype(np.float64)
        generator = np.random.default_rng([seed, num_units])
        weights_RU = generator.standard_exponential((num_resamples, num_units))
        return cls(counts_RU, weights_RU, generator.standard_gamma(0.5, (num_resamples, 2)))

    @property
    def num_units(self) -> int:
        return self.counts_RU.shape[1]


def ratio_intervals(
    numerators_KU: np.ndarray,
    denominators_U: np.ndarray,
    resamples: Resamples,
    ends: Ends = UNBOUNDED,
    level: float = 0.95,
) -> np.ndarray:
    """(K, 2) intervals of sum over sum, drawn together: errors over words, bits over seconds.

    `ends` are those of a unit's own ratio. A pseudo-unit has the units' mean denominator. Where one end is not finite
    neither has a pseudo-unit. NaN where all denominators are 0. Raises ValueError where `resamples` are of another
    number of units.
    """
    if numerators_KU.shape[1:] != denominators_U.shape or len(denominators_U) != resamples.num_units:
        raise ValueError(
            f"Expected values of {resamples.num_units} units, but got {numerators_KU.shape[1]} "
            f"and {len(denominators_U)} denominators."
        )
    tails = (1 - level) / 2, (1 + level) / 2
    if not denominators_U.any():
        return np.full((len(numerators_KU), 2), np.nan)
    drawn_R = resamples.counts_RU @ denominators_U
    known_R = drawn_R > 0  # a resample of units without words has no ratio
    percentile_KR = (resamples.counts_RU @ numerators_KU.T)[known_R].T / drawn_R[known_R]
    sums_KR, drawn_R = numerators_KU @ resamples.weights_RU.T, resamples.weights_RU @ denominators_U
    if all(map(math.isfinite, ends)):
        pseudo_R2 = resamples.pseudo_R2 * denominators_U.mean()
        sums_KR, drawn_R = sums_KR + pseudo_R2 @ np.array(ends), drawn_R + pseudo_R2.sum(1)
    percentile_2K = np.quantile(percentile_KR, tails, axis=1)
    bayesian_2K = np.quantile(sums_KR / drawn_R, tails, axis=1)
    return np.stack([np.minimum(percentile_2K[0], bayesian_2K[0]), np.maximum(percentile_2K[1], bayesian_2K[1])], 1)


def bootstrap_intervals(
    values_KU: np.ndarray, resamples: Resamples, ends: Ends = UNBOUNDED, level: float = 0.95
) -> np.ndarray:
    """(K, 2) intervals of each row's mean. `ends`: the lowest and the highest value that a unit can have."""
    return ratio_intervals(values_KU, np.ones(values_KU.shape[1]), resamples, ends, level)


def bootstrap_interval(
    values_U: np.ndarray, resamples: Resamples, ends: Ends = UNBOUNDED, level: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean of `values_U`. For two systems on the same units give the differences of their values, and
    `difference_ends`: the interval is then paired."""
    ((low, high),) = bootstrap_intervals(values_U[None], resamples, ends, level).tolist()
    return low, high


def spread_interval(value: float, drawn_R: np.ndarray) -> tuple[float, float]:
    """95 % interval of what is no mean and whose resamples lie elsewhere than `value`, such as a count of distinct
    codes, which fall with every utterance that is drawn twice: the spread of the resamples around `value`."""
    low, high = value + np.quantile(drawn_R, [0.025, 0.975]) - drawn_R.mean()
    return float(low), float(high)


@dataclass(frozen=True)
class ClusterResamples:
    """Resamples of whole clusters with all their units (Davison and Hinkley 1997, section 3.8): units of one speaker
    are not independent, so that an interval over units may be too narrow."""

    resamples: Resamples
    membership_UC: np.ndarray

    @classmethod
    def draw(
        cls, clusters_U: Sequence[str], seed: int, num_resamples: int = NUM_RESAMPLES
    ) -> "ClusterResamples | None":
        """None where a unit names no cluster, or all name the same."""
        names, place_U = np.unique(np.array(clusters_U), return_inverse=True)
        if not all(clusters_U) or len(names) < 2:
            return None
        return cls(Resamples.draw(len(names), seed, num_resamples), np.eye(len(names))[place_U])

    def intervals(self, values_KU: np.ndarray, ends: Ends = UNBOUNDED) -> np.ndarray:
        """(K, 2) intervals of each row's mean over all units. The clusters weigh by their number of units."""
        return ratio_intervals(values_KU @ self.membership_UC, self.membership_UC.sum(0), self.resamples, ends)


def cluster_interval(
    values_U: np.ndarray,
    clusters_U: Sequence[str],
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    ends: Ends = UNBOUNDED,
) -> tuple[float, float]:
    """Interval of the mean of `values_U` over resampled clusters; NaN where there are none (see ClusterResamples)."""
    drawn = ClusterResamples.draw(clusters_U, seed, num_resamples)
    if drawn is None:
        return math.nan, math.nan
    ((low, high),) = drawn.intervals(values_U[None], ends).tolist()
    return low, high


def sign_flip_p_value(differences_P: np.ndarray, seed: int, num_flips: int = 10_000) -> float:
    """Two-sided p-value of the paired permutation test (Fisher 1935): how often chance signs give as large a mean.

    All 2**P sign patterns where there are at most 12 prompts, `num_flips` random ones (and the observed) else.
    """
    return float(sign_flip_p_values(differences_P[None], sign_patterns(len(differences_P), seed, num_flips))[0])


def sign_patterns(num_prompts: int, seed: int, num_flips: int = 10_000) -> np.ndarray:
    """(F, P) int8 of -1 and 1, of `sign_flip_p_value`; where they are random, the first row is the observed: all 1."""
    if num_prompts <= 12:
        bits_FP = np.arange(2**num_prompts)[:, None] >> np.arange(num_prompts) & 1
        return (2 * bits_FP - 1).astype(np.int8)
    signs_FP = 2 * np.random.default_rng(seed).integers(0, 2, size=(num_flips, num_prompts)) - 1
    return np.concatenate([np.ones((1, num_prompts), np.int8), signs_FP.astype(np.int8)])


def sign_flip_p_values(differences_KP: np.ndarray, signs_FP: np.ndarray, rows_at_once: int = 1000) -> np.ndarray:
    """(K,) `sign_flip_p_value` of each row, by the same signs. Memory: `rows_at_once` x (K + P) floats."""
    rounding_K = 1e-12 * np.maximum(1.0, np.abs(differences_KP).sum(1))
    least_K = np.abs(differences_KP.sum(1)) - rounding_K
    num_as_large_K = np.zeros(len(differences_KP), dtype=np.int64)
    for start in range(0, len(signs_FP), rows_at_once):
        sums_FK = signs_FP[start : start + rows_at_once].astype(np.float64) @ differences_KP.T
        num_as_large_K += np.sum(np.abs(sums_FK) >= least_K, axis=0)
    return num_as_large_K / len(signs_FP)


@dataclass(frozen=True)
class Estimate:
    """A mean, or a ratio of sums, over the `num` judged utterances, with its 95 % interval over them."""

    value: float
    low: float
    high: float
    num: int
    num_unjudged: int


def ratio_estimate(
    numerators: Sequence[float],
    denominators: Sequence[float],
    seed: int,
    num_resamples: int = 2000,
    ends: Ends = UNBOUNDED,
) -> Estimate:
    """Sum over sum, with an interval that draws the pairs together (NaN in either: counted, left out). `ends`: the
    lowest and the highest ratio of an utterance (a word error rate beyond 1 is taken for 1 there)."""
    pairs = np.array([numerators, denominators], dtype=np.float64)
    judged = pairs[:, ~np.isnan(pairs).any(axis=0)]
    num, num_unjudged = judged.shape[1], pairs.shape[1] - judged.shape[1]
    if not num or not judged[1].sum():
        return Estimate(math.nan, math.nan, math.nan, num, num_unjudged)
    ((low, high),) = ratio_intervals(judged[:1], judged[1], Resamples.draw(num, seed, num_resamples), ends).tolist()
    return Estimate(float(judged[0].sum() / judged[1].sum()), low, high, num, num_unjudged)


def mean_estimate(values: Sequence[float], seed: int, num_resamples: int = 2000, ends: Ends = UNBOUNDED) -> Estimate:
    """The mean of what could be judged. `ends`: the lowest and the highest value of an utterance."""
    return ratio_estimate(values, [1.0] * len(values), seed, num_resamples, ends)
