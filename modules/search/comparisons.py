"""Paired comparisons of the lines of a sweep at equal n: selectors, algorithms and temperatures on the same prompts."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modules.search.estimators import (
    CurvePoint,
    bootstrap_interval,
    resample_counts,
    sign_flip_p_value,
    speaker_interval,
)
from modules.search.overoptimisation import OverOptimisation


@dataclass(frozen=True)
class Comparison:
    """`difference` = first - second in the judge's score, with its paired 95 % interval over prompts and the two-sided
    p-value of the sign-flip test (of this pair alone: where many are compared, some are small by chance).
    [speaker_low, speaker_high]: the paired interval over speakers; NaN where prompts name none."""

    prompt_set: str
    judge: str
    n: int
    first: str
    second: str
    difference: float
    low: float
    high: float
    p_value: float
    num_prompts: int
    speaker_low: float = math.nan
    speaker_high: float = math.nan


def setting_label(row: CurvePoint | OverOptimisation) -> str:
    """What drew the candidates: the model where there are several, the search, the temperature where it is known."""
    temperature = "" if math.isnan(row.temperature) else f"T={row.temperature:g}"
    return " ".join(filter(None, [row.model, row.algorithm, temperature]))


def line_label(point: CurvePoint) -> str:
    """What distinguishes a line from the others under one judge."""
    return f"{setting_label(point)}: {point.selector}"


def compare(points: Sequence[CurvePoint], seed: int, num_resamples: int = 2000) -> list[Comparison]:
    """Every pair of lines that share prompts, judge and n; the oracle, which nobody can run, is left out."""
    groups: dict[tuple[str, str, int], list[CurvePoint]] = {}
    for point in points:
        if not point.selector.startswith("oracle ("):
            groups.setdefault((point.prompt_set, point.judge, point.n), []).append(point)
    comparisons = []
    for (prompt_set, judge, n), group in groups.items():
        counts_RP = resample_counts(group[0].num_prompts, seed, num_resamples)
        for first, second in itertools.combinations(group, 2):
            labels = (line_label(first), line_label(second))
            difference_P = first.scores_P - second.scores_P
            numbers = paired_numbers(difference_P, first.speakers_P, counts_RP, seed, num_resamples)
            comparisons.append(Comparison(prompt_set, judge, n, *labels, *numbers))
    return comparisons


def paired_numbers(
    difference_P: np.ndarray, speakers_P: Sequence[str], counts_RP: np.ndarray, seed: int, num_resamples: int
) -> tuple[float, float, float, float, int, float, float]:
    """Of the differences of P prompts: the fields of a Comparison from `difference` on. `counts_RP`: of
    `resample_counts`."""
    low, high = bootstrap_interval(difference_P, counts_RP)
    over_speakers = speaker_interval(difference_P, speakers_P, seed, num_resamples)
    p_value = sign_flip_p_value(difference_P, seed)
    return float(difference_P.mean()), low, high, p_value, len(difference_P), *over_speakers
