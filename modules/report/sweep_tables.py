"""Tables of a sweep's report: every setting with its cost, and every prompt. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass

from modules.report.figures import is_oracle
from modules.search.analysis.comparisons import Comparison, setting_label
from modules.search.analysis.expected_best_of_n import CurvePoint
from modules.search.analysis.pitch_scores import PitchScore
from modules.search.analysis.results import SweepResults
from modules.search.protocol import Trace

MAX_COMPARISONS = 40  # on the page; the file has all


def final_points(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    """The point of every setting and selector at the largest n. The oracle, which has no cost, is excluded; chance,
    which needs one sample, is at n = 1."""
    finals: dict[tuple, CurvePoint] = {}
    for point in points:
        if is_oracle(point.selector):
            continue
        line = (setting_label(point), point.selector)
        known = finals.setdefault(line, point)
        if point.n < known.n if point.selector == "random" else point.n > known.n:
            finals[line] = point
    return list(finals.values())


def most_telling(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons shown on a page: at the largest n of each prompt set and judge, the smallest p-values first."""
    largest: dict[tuple[str, str], int] = {}
    for one in comparisons:
        pair = (one.prompt_set, one.judge)
        largest[pair] = max(one.n, largest.get(pair, 0))
    at_end = [one for one in comparisons if one.n == largest[one.prompt_set, one.judge]]
    return sorted(at_end, key=lambda one: one.p_value)[:MAX_COMPARISONS]


def warnings_of(results: SweepResults) -> list[str]:
    """The distinct warnings of all searches, with their prompt sets."""
    found: dict[str, set[str]] = {}
    for row in results.over_optimisation:
        if row.warning:
            found.setdefault(f"{row.selector}: {row.warning}", set()).add(row.prompt_set)
    return [f"{text} ({', '.join(sorted(sets))})." for text, sets in found.items()]


def final_pitch_scores(results: SweepResults) -> list[PitchScore]:
    """The scores by pitch of the first search: one sample, and each selector's selection among all."""
    finals = {
        (point.prompt_set, point.judge, point.selector, point.n)
        for pair in dict.fromkeys((one.prompt_set, one.judge) for one in results.first_points)
        for point in final_points([one for one in results.first_points if (one.prompt_set, one.judge) == pair])
    }
    first = results.swept[0].search
    return [
        row
        for row in results.pitch_scores
        if (row.prompt_set, row.judge, row.selector, row.n) in finals
        and (row.model, row.algorithm, row.temperature) == first
    ]


@dataclass(frozen=True)
class PromptScores:
    """One prompt under one judge: `scores` in the order of the lines that `prompt_lines` names."""

    key: str
    text: str
    speaker: str
    scores: list[float]


def prompt_lines(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    """The columns of the table by prompt: one sample and each selector's selection among all, of the first setting; the
    oracle last."""
    first = [point for point in points if setting_label(point) == setting_label(points[0]) and len(point.scores_P)]
    oracle = [point for point in first if is_oracle(point.selector)]
    return final_points(first) + oracle[-1:]


def prompt_rows(points: Sequence[CurvePoint], traces: Sequence[Trace]) -> list[PromptScores]:
    """One row per prompt, sorted by the score of the first selector's selection (of one sample without selectors),
    worst first."""
    lines = prompt_lines(points)
    rows = []
    for place, trace in enumerate(traces):
        scores = [float(point.scores_P[place]) for point in lines]
        rows.append(PromptScores(trace.prompt.key, trace.prompt.text, trace.prompt.speaker, scores))
    chosen = [place for place, point in enumerate(lines) if point.selector != "random"] or [0]
    return sorted(rows, key=lambda row: row.scores[chosen[0]] if row.scores else 0.0)
