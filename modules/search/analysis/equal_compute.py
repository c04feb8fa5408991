"""Comparison of searches with best-of-n at equal FLOPs: the score that more samples reach for the same compute."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from modules.search.analysis.comparisons import Resampling, line_label
from modules.search.analysis.expected_best_of_n import CurvePoint

UNKNOWN = ("n", "baseline_score", "baseline_flops", "difference", "low", "high", "p_value")


@dataclass(frozen=True)
class EqualCompute:
    """One search under one judge, compared with the baseline's samples at the same FLOPs per prompt.

    `n` is the number of baseline samples that cost as many FLOPs as the search; between two whole numbers the baseline
    uses one or the other at random, so that it spends the same on average. A search that costs more than all available
    samples is compared with all of them (`baseline_flops` < `flops`), one that costs less than one sample with one.
    If the FLOPs of the search or of a number of samples are unknown, `n` and the difference are NaN.
    `difference` = search - baseline in the judge's score, with its paired 95 % interval over prompts and the two-sided
    p-value of the sign-flip test. `differences_P` has the difference of every prompt, to combine several runs.
    """

    prompt_set: str
    judge: str
    search: str
    score: float
    flops: float
    baseline: str
    n: float
    baseline_score: float
    baseline_flops: float
    difference: float
    low: float
    high: float
    p_value: float
    num_prompts: int
    differences_P: tuple[float, ...] = field(default=(), repr=False)


def at_equal_compute(
    points: Sequence[CurvePoint], baseline: Sequence[CurvePoint], seed: int, num_resamples: int = 2000
) -> list[EqualCompute]:
    """Compare each of `points` with the baseline of the same judge, selector, prompt set, temperature and model. If
    several searches in `baseline` match, only the one with the most samples is used.

    Args:
        points: Points of searches. Those of chance, of the oracle and of self-judged lines are ignored.
        baseline: Points of independent samples, at every n from 1 on.
        seed: Seed of the bootstrap.
        num_resamples: Number of bootstrap resamples.
    """
    curves: dict[tuple[str, str, str, float, str], dict[str, dict[int, CurvePoint]]] = {}
    for point in baseline:
        curves.setdefault(_line(point), {}).setdefault(point.algorithm, {}).setdefault(point.n, point)
    drawn = functools.cache(functools.partial(Resampling.draw, speakers_P=(), seed=seed, num_resamples=num_resamples))
    rows = []
    for point in points:
        largest = max(curves.get(_line(point), {}).values(), key=len, default={})
        curve = [one for _, one in sorted(largest.items())]
        if not curve or point.selector == "random" or not point.is_independent:
            continue
        flops_n = np.array([one.flops for one in curve])
        about = {
            "prompt_set": point.prompt_set,
            "judge": point.judge,
            "search": line_label(point),
            "score": point.score,
            "flops": point.flops,
            "baseline": line_label(curve[0]),
            "num_prompts": point.num_prompts,
        }
        if math.isnan(point.flops) or np.isnan(flops_n).any():
            rows.append(EqualCompute(**about, **dict.fromkeys(UNKNOWN, math.nan)))
            continue
        assert not np.any(np.diff(flops_n) < 0), "more samples of one search cost no less"
        place = float(np.interp(point.flops, flops_n, np.arange(len(curve))))
        below, share = int(place), place - int(place)
        above = min(below + 1, len(curve) - 1)
        scores_P = (1 - share) * curve[below].scores_P + share * curve[above].scores_P
        difference_P = point.scores_P - scores_P
        ((difference, low, high, p_value, *_),) = drawn(point.num_prompts).numbers(difference_P[None], point.ends)
        rows.append(
            EqualCompute(
                **about,
                n=(1 - share) * curve[below].n + share * curve[above].n,
                baseline_score=float(scores_P.mean()),
                baseline_flops=float(np.interp(place, np.arange(len(curve)), flops_n)),
                difference=difference,
                low=low,
                high=high,
                p_value=p_value,
                differences_P=tuple(difference_P.tolist()),
            )
        )
    return rows


def _line(point: CurvePoint) -> tuple[str, str, str, float, str]:
    return point.prompt_set, point.judge, point.selector, point.temperature, point.model
