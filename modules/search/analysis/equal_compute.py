"""Searches beside best-of-n at the FLOPs that they spent: what more samples would have bought for the same compute."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from modules.search.analysis.comparisons import Resampling, line_label
from modules.search.analysis.expectations import CurvePoint

UNKNOWN = ("n", "baseline_score", "baseline_flops", "difference", "low", "high", "p_value")


@dataclass(frozen=True)
class EqualCompute:
    """One search under one judge, beside the baseline's samples at the same FLOPs for a prompt.

    `n` is how many of the baseline's samples the search's FLOPs pay for; between two whole numbers the baseline takes
    one or the other by chance, so that it spends as much on average. A search that costs more than all the samples that
    there are stands beside all of them (`baseline_flops` < `flops`), one that costs less than one sample beside one.
    Where the FLOPs of the search or of a number of samples are not known, neither are `n` and the difference: all NaN.
    `difference` = search - baseline in the judge's score, with its paired 95 % interval over prompts and the two-sided
    p-value of the sign-flip test. `differences_P` holds that of every prompt, to join several runs.
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
    """A row for each of `points` whose judge, selector, prompt set, temperature and model the baseline has too: of
    several searches in `baseline` that have them, the one with the most samples, by itself.

    Args:
        points: Of searches. Those of chance and of the oracle are left out.
        baseline: Of independent samples, at every n from 1 on.
        seed: Of the bootstrap.
        num_resamples: Of the bootstrap.
    """
    curves: dict[tuple[str, str, str, float, str], dict[str, dict[int, CurvePoint]]] = {}
    for point in baseline:
        curves.setdefault(_line(point), {}).setdefault(point.algorithm, {}).setdefault(point.n, point)
    drawn = functools.cache(functools.partial(Resampling.draw, speakers_P=(), seed=seed, num_resamples=num_resamples))
    rows = []
    for point in points:
        largest = max(curves.get(_line(point), {}).values(), key=len, default={})
        curve = [one for _, one in sorted(largest.items())]
        if not curve or point.selector == "random" or point.selector.startswith("oracle ("):
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
