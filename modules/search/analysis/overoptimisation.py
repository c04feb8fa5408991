"""Over-optimisation of selectors: their own score compared with independent judges on the same selections.

Gao et al., arXiv 2210.10760: beyond some n the proxy score keeps rising while the true score falls.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from modules.api import Verifier, disagreement_name, models_of
from modules.search.analysis.curves import scores_of
from modules.search.analysis.expected_best_of_n import (
    CurvePoint,
    JudgedPrompt,
    ends_of,
    expected_scores,
    selection_weights,
)
from modules.search.panel import Panel, chosen_index
from modules.search.protocol import Trace
from modules.statistics import Ends, Resamples, bootstrap_interval, difference_ends

NO_INDEPENDENT_JUDGE = "no independent judge: what this selector bought is not known"


@dataclass(frozen=True)
class OverOptimisation:
    """One selector under one judge with different models, from n = 1 to N.

    Gains are changes of the mean score from n = 1 to N, each in standard deviations of that verifier's scores of single
    candidates, with 95 % intervals over prompts (paired). `gap` = the selector's own gain - the judge's. `turning_n`:
    the n where the judge's score is highest, if the fall from there to N excludes 0 (at a level corrected for the
    number of n tested); 0 if there is no such fall. `warning` is empty or describes the problem; a selector without
    any independent judge has one row with no numbers and that warning. For an ensemble, `disagreement` is the mean over
    all candidates of the standard deviation of its members' z-scores (0 is full agreement, 1 is chance), and
    `chosen_disagreement` the mean over the selections among n. With `num_seeds` seeds, scores and gains use each
    prompt's mean over them; standard deviations and disagreements are over the candidates of all.
    `shared_families` as in CurvePoint.
    """

    prompt_set: str
    algorithm: str
    selector: str
    judge: str
    n: int
    own_score: float = math.nan
    judge_score: float = math.nan
    own_gain: float = math.nan
    own_low: float = math.nan
    own_high: float = math.nan
    judge_gain: float = math.nan
    judge_low: float = math.nan
    judge_high: float = math.nan
    gap: float = math.nan
    gap_low: float = math.nan
    gap_high: float = math.nan
    turning_n: int = 0
    warning: str = ""
    temperature: float = math.nan
    num_seeds: int = 1
    disagreement: float = math.nan
    chosen_disagreement: float = math.nan
    model: str = ""
    shared_families: str = ""


def over_optimisation(
    points: Sequence[CurvePoint],
    by_seed: Sequence[Sequence[Trace]],
    panel: Panel,
    seed: int,
    num_resamples: int = 2000,
) -> list[OverOptimisation]:
    """One row per selector and judge of one prompt set and algorithm.

    A search with dependent candidates has no curve over n: only missing judges are reported.

    Args:
        points: The curves; with several seeds their means.
        by_seed: The traces of the curves, for each seed in the same order of prompts.
        panel: Selectors and judges.
        seed: Seed of the bootstrap.
        num_resamples: Number of bootstrap resamples.
    """
    resamples = Resamples.draw(len(by_seed[0]), seed, num_resamples)
    traces = [trace for own in by_seed for trace in own]
    rows = []
    for selector in panel.selectors:
        own = {
            judge.facts.name: sorted((one for one in points if _is_of(one, selector, judge)), key=lambda point: point.n)
            for judge in [*panel.judges, *panel.final_judges]
            if not models_of(judge) & models_of(selector)
        }
        curves = {name: curve for name, curve in own.items() if curve}
        if not curves:
            first = points[0]
            n = max(len(trace.candidates) for trace in traces)
            about = (first.prompt_set, first.algorithm, selector.facts.name, "", n)
            rows.append(OverOptimisation(*about, warning=NO_INDEPENDENT_JUDGE))
        for judge in [*panel.judges, *panel.final_judges]:
            if len(curve := curves.get(judge.facts.name, [])) > 1:
                rows.append(_row(curve, by_seed, selector, judge, resamples))
    drawn_by = {"temperature": points[0].temperature, "model": points[0].model, "num_seeds": len(by_seed)}
    return [replace(row, **drawn_by, **_disagreements(traces, row.selector)) for row in rows]


def _disagreements(traces: Sequence[Trace], selector_name: str) -> dict[str, float]:
    """Mean disagreement over all candidates and over the selections; NaN if the selector is not an ensemble."""
    name = disagreement_name(selector_name)
    all_P = [[one.scores.get(name, math.nan) for one in trace.candidates] for trace in traces]
    chosen_P = [own[chosen_index(trace.candidates, selector_name)] for own, trace in zip(all_P, traces, strict=True)]
    known = {"disagreement": np.concatenate(all_P), "chosen_disagreement": np.array(chosen_P)}
    return {key: float(np.nanmean(row)) if not np.isnan(row).all() else math.nan for key, row in known.items()}


def _is_of(point: CurvePoint, selector: Verifier, judge: Verifier) -> bool:
    return (point.selector, point.judge) == (selector.facts.name, judge.facts.name)


def _row(
    curve: Sequence[CurvePoint],
    by_seed: Sequence[Sequence[Trace]],
    selector: Verifier,
    judge: Verifier,
    resamples: Resamples,
) -> OverOptimisation:
    last, traces = curve[-1], [trace for own in by_seed for trace in own]
    own_P = {n: np.mean([_own_scores(own, selector, n) for own in by_seed], axis=0) for n in (1, last.n)}
    own_spread, judge_spread = _spread(traces, selector), _spread(traces, judge)
    own_change_P = (own_P[last.n] - own_P[1]) / own_spread
    judge_change_P = (last.scores_P - curve[0].scores_P) / judge_spread
    own_ends, judge_ends = _change_ends(selector, own_spread), _change_ends(judge, judge_spread)
    gap_ends = own_ends[0] - judge_ends[1], own_ends[1] - judge_ends[0]
    own_low, own_high = bootstrap_interval(own_change_P, resamples, own_ends)
    judge_low, judge_high = bootstrap_interval(judge_change_P, resamples, judge_ends)
    gap_low, gap_high = bootstrap_interval(own_change_P - judge_change_P, resamples, gap_ends)
    turning_n = _turning_n(curve, resamples)
    is_over_optimised = own_low > 0 and turning_n > 0
    return OverOptimisation(
        prompt_set=last.prompt_set,
        algorithm=last.algorithm,
        selector=selector.facts.name,
        judge=judge.facts.name,
        n=last.n,
        own_score=float(own_P[last.n].mean()),
        judge_score=last.score,
        own_gain=float(own_change_P.mean()),
        own_low=own_low,
        own_high=own_high,
        judge_gain=float(judge_change_P.mean()),
        judge_low=judge_low,
        judge_high=judge_high,
        gap=float((own_change_P - judge_change_P).mean()),
        gap_low=gap_low,
        gap_high=gap_high,
        turning_n=turning_n,
        shared_families=last.shared_families,
        warning=f"over-optimised: {judge.facts.name} falls after n = {turning_n}" if is_over_optimised else "",
    )


def _change_ends(verifier: Verifier, spread: float) -> Ends:
    """The largest fall and rise of a verifier's score, in standard deviations."""
    low, high = difference_ends(ends_of(verifier))
    return low / spread, high / spread


def _turning_n(curve: Sequence[CurvePoint], resamples: Resamples) -> int:
    """The n of the judge's highest score if its fall from there to the last n excludes 0; else 0."""
    peak = max(curve, key=lambda point: point.score)  # the first among equals
    level = 1 - 0.05 / max(1, len(curve) - 1)
    _, high = bootstrap_interval(curve[-1].scores_P - peak.scores_P, resamples, difference_ends(peak.ends), level)
    return peak.n if high < 0 else 0


def _own_scores(traces: Sequence[Trace], selector: Verifier, n: int) -> np.ndarray:
    """(P,) the selector's expected score of its own selection among n; NaN counts as its worst score."""
    prompts, weights_PN = [], []
    for trace in traces:
        scores_N = scores_of(trace.candidates, selector.facts.name)
        prompts.append(JudgedPrompt.from_scores(scores_N, np.ones(len(scores_N)), selector.facts.worst_score))
        weights_PN.append(selection_weights(scores_N, n))
    return expected_scores(prompts, weights_PN)


def _spread(traces: Sequence[Trace], verifier: Verifier) -> float:
    """Standard deviation of the verifier's scores of single candidates, without NaN; 1 if they are all equal."""
    name = verifier.facts.name
    given = [one.scores[name] for trace in traces for one in trace.candidates if name in one.scores]
    known = np.array([score for score in given if not math.isnan(score)])
    return float(known.std()) or 1.0 if known.size else 1.0
