"""Paired comparisons of the lines of a sweep at equal n: selectors, algorithms and temperatures on the same prompts."""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modules.search.analysis.expected_best_of_n import CurvePoint
from modules.search.analysis.overoptimisation import OverOptimisation
from modules.statistics import (
    ClusterResamples,
    Ends,
    Resamples,
    bootstrap_intervals,
    difference_ends,
    sign_flip_p_values,
    sign_patterns,
)

SAME_FAMILY = "(same family as the judge)"


@dataclass(frozen=True)
class Comparison:
    """Paired comparison of two lines: `difference` = first - second in the judge's score, with its paired 95 % interval
    over prompts and the two-sided p-value of the sign-flip test, without correction for multiple comparisons.
    [speaker_low, speaker_high]: the paired interval over speakers; NaN if prompts name none."""

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
    """Label of the setting: the model if there are several, the search, the temperature if it is known."""
    temperature = "" if math.isnan(row.temperature) else f"T={row.temperature:g}"
    return " ".join(filter(None, [row.model, row.algorithm, temperature]))


def selector_label(point: CurvePoint) -> str:
    """The selector's name, marked if the judge is of the same family."""
    return f"{point.selector} {SAME_FAMILY}" if point.shared_families else point.selector


def line_label(point: CurvePoint) -> str:
    """Label that distinguishes a line from the others under one judge."""
    return f"{setting_label(point)}: {selector_label(point)}"


@dataclass(frozen=True)
class Resampling:
    """Resamples shared by all comparisons of lines on the same prompts. `over_speakers` is None if a prompt names no
    speaker or all name the same."""

    over_prompts: Resamples
    over_speakers: ClusterResamples | None
    signs_FP: np.ndarray

    @classmethod
    def draw(cls, num_prompts: int, speakers_P: Sequence[str], seed: int, num_resamples: int = 2000) -> "Resampling":
        return cls(
            Resamples.draw(num_prompts, seed, num_resamples),
            ClusterResamples.draw(speakers_P, seed, num_resamples),
            sign_patterns(num_prompts, seed),
        )

    def numbers(
        self, differences_KP: np.ndarray, ends: Ends
    ) -> list[tuple[float, float, float, float, int, float, float]]:
        """The fields of a Comparison from `difference` on, for K pairs. `ends` is the range of the judge's scores."""
        num_pairs, num_prompts = differences_KP.shape
        over_prompts = bootstrap_intervals(differences_KP, self.over_prompts, difference_ends(ends))
        over_speakers = np.full((num_pairs, 2), math.nan)
        if self.over_speakers is not None:
            over_speakers = self.over_speakers.intervals(differences_KP, difference_ends(ends))
        p_values = sign_flip_p_values(differences_KP, self.signs_FP).tolist()
        rows = zip(
            differences_KP.mean(1).tolist(), over_prompts.tolist(), p_values, over_speakers.tolist(), strict=True
        )
        return [(mean, *own, p_value, num_prompts, *whole) for mean, own, p_value, whole in rows]


def compare(points: Sequence[CurvePoint], seed: int, num_resamples: int = 2000) -> list[Comparison]:
    """Compare every pair of lines that share prompts, judge and n. The oracle is excluded, because it cannot be used in
    practice, and so are self-judged lines, and pairs of one search at n = 1, where all lines have one candidate."""
    groups: dict[tuple[str, str, int], list[CurvePoint]] = {}
    for point in points:
        if point.is_independent:
            groups.setdefault((point.prompt_set, point.judge, point.n), []).append(point)
    drawn = functools.cache(functools.partial(Resampling.draw, seed=seed, num_resamples=num_resamples))
    comparisons = []
    for (prompt_set, judge, n), group in groups.items():
        pairs = [
            (first, second)
            for first, second in itertools.combinations(group, 2)
            if n > 1 or setting_label(first) != setting_label(second)
        ]
        if not pairs:
            continue
        differences_KP = np.stack([first.scores_P - second.scores_P for first, second in pairs])
        all_numbers = drawn(group[0].num_prompts, group[0].speakers_P).numbers(differences_KP, group[0].ends)
        for (first, second), numbers in zip(pairs, all_numbers, strict=True):
            comparisons.append(Comparison(prompt_set, judge, n, line_label(first), line_label(second), *numbers))
    return comparisons
