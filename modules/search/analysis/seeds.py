"""The mean of the curves of several seeds, and the deviation between seeds.

Shapes: P prompts.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from modules.search.analysis.curves import with_gains
from modules.search.analysis.expected_best_of_n import CurvePoint
from modules.statistics import Resamples, bootstrap_interval, cluster_interval


def averaged(curves: Sequence[Sequence[CurvePoint]], seed: int, num_resamples: int = 2000) -> list[CurvePoint]:
    """The mean of each point over the seeds' curves, in the order of the first ones.

    A point's interval is the bootstrap over prompts of each prompt's mean over the seeds; `seed_deviation` is the
    standard deviation of the seeds' scores (with n - 1), the variation to expect from another seed.
    """
    if len(curves) == 1:
        return list(curves[0])
    groups: dict[tuple, list[CurvePoint]] = {}
    for points in curves:
        counts: dict[tuple, int] = {}
        for point in points:
            counts[_line(point)] = counts.get(_line(point), 0) + 1
        for point in points:
            # A search without a curve has one point, at an n that may differ between seeds.
            groups.setdefault((*_line(point), point.n if counts[_line(point)] > 1 else 0), []).append(point)
    drawn = functools.cache(functools.partial(Resamples.draw, seed=seed, num_resamples=num_resamples))
    means = [
        _mean_point(group, drawn(group[0].num_prompts), seed, num_resamples)
        for group in groups.values()
        if len(group) == len(curves)
    ]
    return [
        point
        for prompt_set in dict.fromkeys(point.prompt_set for point in means)
        for point in with_gains([one for one in means if one.prompt_set == prompt_set], seed, num_resamples)
    ]


def _line(point: CurvePoint) -> tuple[str, str, str]:
    return point.prompt_set, point.judge, point.selector


def _mean_point(group: Sequence[CurvePoint], resamples: Resamples, seed: int, num_resamples: int) -> CurvePoint:
    first = group[0]
    scores_P = np.mean([point.scores_P for point in group], axis=0)
    low, high = bootstrap_interval(scores_P, resamples, first.ends)
    speaker_low, speaker_high = cluster_interval(scores_P, first.speakers_P, seed, num_resamples, first.ends)
    judged = [point for point in group if point.judged_mass > 0]
    masses = [point.judged_mass for point in judged]
    judged_only = float(np.average([one.score_judged_only for one in judged], weights=masses)) if judged else math.nan
    means = {
        name: float(np.mean([getattr(point, name) for point in group]))
        for name in ("score", "flops", "seconds", "score_corpus", "chosen_runaways")
    }
    return replace(
        first,
        n=max(point.n for point in group),
        low=low,
        high=high,
        speaker_low=speaker_low,
        speaker_high=speaker_high,
        num_unjudged=sum(point.num_unjudged for point in group),
        num_runaways=sum(point.num_runaways for point in group),
        score_judged_only=judged_only,
        judged_mass=sum(masses),
        num_seeds=len(group),
        seed_deviation=float(np.std([point.score for point in group], ddof=1)),
        scores_P=scores_P,
        **means,
    )
