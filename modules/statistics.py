"""95 % intervals over prompts, utterances or speakers: one definition for all tables. Functions on numpy arrays.

An interval is the hull of two. The percentile bootstrap (Efron 1979) alone is too narrow near the end of a score's
range: if all of 32 are correct it is [1, 1], and at 2 % errors it contains the true mean in half of all samples. The
Bayesian bootstrap (Rubin 1981) weights the units by a Dirichlet distribution; if the score's range is known, half a
pseudo-unit is added at each of its ends, for outcomes that 32 units cannot show. Without a known range there are no
pseudo-units, and the interval is too narrow if the values happen to lie closer together than those of the population.

Shapes: U units, C clusters of units (a speaker's prompts), R resamples, K systems.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Ends = tuple[float, float]  # lowest and highest possible value of a unit
UNBOUNDED: Ends = (-math.inf, math.inf)
NUM_RESAMPLES = 2000


def interval_label(units: str, num_resamples: int = NUM_RESAMPLES) -> str:
    """Description of the interval's method, for evaluation cards."""
    return f"95 %, hull of percentile and Bayesian bootstrap over {units}, {num_resamples} resamples"


def difference_ends(ends: Ends) -> Ends:
    """Range of the difference of two values that each lie within `ends`."""
    return ends[0] - ends[1], ends[1] - ends[0]


def resample_counts(num_units: int, seed: int, num_resamples: int = NUM_RESAMPLES) -> np.ndarray:
    """Counts (R, U) of each unit in each resample with replacement."""
    if num_units < 1:
        raise ValueError(f"Expected `num_units` to be at least 1, but got {num_units}.")
    drawn_RU = np.random.default_rng(seed).integers(0, num_units, size=(num_resamples, num_units))
    return np.stack([np.bincount(drawn_U, minlength=num_units) for drawn_U in drawn_RU])


@dataclass(frozen=True)
class Resamples:
    """Weights of U units in both bootstraps. Systems on the same units share them, which makes their differences
    paired.

    `counts_RU`: percentile bootstrap. `weights_RU` (exponential) and `pseudo_R2` (gamma, shape 1/2; pseudo-units at the
    low and the high end): Bayesian bootstrap, a Dirichlet sample before division by its sum.
    """

    counts_RU: np.ndarray
    weights_RU: np.ndarray
    pseudo_R2: np.ndarray

    @classmethod
    def draw(cls, num_units: int, seed: int, num_resamples: int = NUM_RESAMPLES) -> "Resamples":
        """Draw the weights; a pure function of its arguments."""
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
    """Intervals (K, 2) of ratios of sums, resampled jointly: errors over words, bits over seconds.

    `ends` is the range of a unit's own ratio. A pseudo-unit has the units' mean denominator. If one end is not finite,
    neither has a pseudo-unit. NaN if all denominators are 0. Raises ValueError if `resamples` has another number of
    units.
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
    """Intervals (K, 2) of each row's mean. `ends`: lowest and highest possible value of a unit."""
    return ratio_intervals(values_KU, np.ones(values_KU.shape[1]), resamples, ends, level)


def bootstrap_interval(
    values_U: np.ndarray, resamples: Resamples, ends: Ends = UNBOUNDED, level: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean of `values_U`. To compare two systems on the same units pass the differences of their values
    and `difference_ends`: the interval is then paired."""
    ((low, high),) = bootstrap_intervals(values_U[None], resamples, ends, level).tolist()
    return low, high


def spread_interval(value: float, drawn_R: np.ndarray) -> tuple[float, float]:
    """95 % interval for statistics that are not means and whose resamples are biased, such as the number of distinct
    codes, which decreases with every utterance drawn twice: the spread of the resamples, centred on `value`."""
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
        """Draw resamples. Returns None if a unit has no cluster, or all have the same."""
        names, place_U = np.unique(np.array(clusters_U), return_inverse=True)
        if not all(clusters_U) or len(names) < 2:
            return None
        return cls(Resamples.draw(len(names), seed, num_resamples), np.eye(len(names))[place_U])

    def intervals(self, values_KU: np.ndarray, ends: Ends = UNBOUNDED) -> np.ndarray:
        """Intervals (K, 2) of each row's mean over all units. Clusters are weighted by their number of units."""
        return ratio_intervals(values_KU @ self.membership_UC, self.membership_UC.sum(0), self.resamples, ends)


def cluster_interval(
    values_U: np.ndarray,
    clusters_U: Sequence[str],
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    ends: Ends = UNBOUNDED,
) -> tuple[float, float]:
    """Interval of the mean of `values_U` over resampled clusters; NaN if there are none (see ClusterResamples)."""
    drawn = ClusterResamples.draw(clusters_U, seed, num_resamples)
    if drawn is None:
        return math.nan, math.nan
    ((low, high),) = drawn.intervals(values_U[None], ends).tolist()
    return low, high


def sign_flip_p_value(differences_P: np.ndarray, seed: int, num_flips: int = 10_000) -> float:
    """Two-sided p-value of the paired permutation test (Fisher 1935): how often random signs give as large a mean.

    All 2**P sign patterns for at most 12 prompts, otherwise `num_flips` random ones (and the observed one).
    """
    return float(sign_flip_p_values(differences_P[None], sign_patterns(len(differences_P), seed, num_flips))[0])


def sign_patterns(num_prompts: int, seed: int, num_flips: int = 10_000) -> np.ndarray:
    """Sign patterns (F, P) for `sign_flip_p_value`, int8 of -1 and 1; if random, the first row is the observed: all
    1."""
    if num_prompts <= 12:
        bits_FP = np.arange(2**num_prompts)[:, None] >> np.arange(num_prompts) & 1
        return (2 * bits_FP - 1).astype(np.int8)
    signs_FP = 2 * np.random.default_rng(seed).integers(0, 2, size=(num_flips, num_prompts)) - 1
    return np.concatenate([np.ones((1, num_prompts), np.int8), signs_FP.astype(np.int8)])


def sign_flip_p_values(differences_KP: np.ndarray, signs_FP: np.ndarray, rows_at_once: int = 1000) -> np.ndarray:
    """`sign_flip_p_value` of each row, (K,), with shared signs. Memory: `rows_at_once` x (K + P) floats."""
    rounding_K = 1e-12 * np.maximum(1.0, np.abs(differences_KP).sum(1))
    least_K = np.abs(differences_KP.sum(1)) - rounding_K
    num_as_large_K = np.zeros(len(differences_KP), dtype=np.int64)
    for start in range(0, len(signs_FP), rows_at_once):
        sums_FK = signs_FP[start : start + rows_at_once].astype(np.float64) @ differences_KP.T
        num_as_large_K += np.sum(np.abs(sums_FK) >= least_K, axis=0)
    return num_as_large_K / len(signs_FP)


@dataclass(frozen=True)
class Estimate:
    """A mean, or a ratio of sums, over the `num` scored utterances, with its 95 % interval."""

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
    """Ratio of sums, with an interval that resamples pairs jointly (NaN in either: counted and excluded). `ends`:
    lowest and highest ratio of an utterance (a word error rate above 1 is clipped to 1 there)."""
    pairs = np.array([numerators, denominators], dtype=np.float64)
    judged = pairs[:, ~np.isnan(pairs).any(axis=0)]
    num, num_unjudged = judged.shape[1], pairs.shape[1] - judged.shape[1]
    if not num or not judged[1].sum():
        return Estimate(math.nan, math.nan, math.nan, num, num_unjudged)
    ((low, high),) = ratio_intervals(judged[:1], judged[1], Resamples.draw(num, seed, num_resamples), ends).tolist()
    return Estimate(float(judged[0].sum() / judged[1].sum()), low, high, num, num_unjudged)


def mean_estimate(values: Sequence[float], seed: int, num_resamples: int = 2000, ends: Ends = UNBOUNDED) -> Estimate:
    """Mean of the values that are not NaN. `ends`: lowest and highest value of an utterance."""
    return ratio_estimate(values, [1.0] * len(values), seed, num_resamples, ends)
