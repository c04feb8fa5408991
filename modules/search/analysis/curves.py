"""The curves of a sweep: every selector under every judge with a different model, chance, and the oracle. Lines whose
judge took part in the selection are drawn on request, labelled."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np

from modules.api import Candidate, Cost, Transcribes, Verifier, models_of
from modules.search.analysis.expected_best_of_n import (
    SELF_JUDGED,
    CurvePoint,
    JudgedPrompt,
    candidate_counts,
    corpus_score,
    ends_of,
    expected_runaways,
    expected_scores,
    judged_only_score,
    selection_weights,
)
from modules.search.analysis.families import families_of, shared_families
from modules.search.costs import search_cost
from modules.search.panel import Panel, chosen_index
from modules.search.protocol import SearchAlgorithm, Trace
from modules.statistics import Resamples, bootstrap_interval, cluster_interval, difference_ends

Weights = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class Line:
    """One curve: its label, its selector (None: chance), the probability of each of a prompt's candidates to be
    selected among n (`weights(index of the prompt, n) -> (N,)`), whether it is an oracle, and how its judge took part
    (CurvePoint.self_judged)."""

    label: str
    selector: Verifier | None
    weights: Weights
    is_oracle: bool = False
    self_judged: str = ""


@dataclass(frozen=True)
class CurveCalculator:
    """Computes curve points from the traces of one prompt set. All lines share one set of resamples (paired
    intervals)."""

    prompt_set: str
    algorithm: SearchAlgorithm
    traces: Sequence[Trace]
    panel: Panel
    seed: int
    num_resamples: int = 2000
    temperature: float = math.nan

    def points(self) -> list[CurvePoint]:
        """All curve points, ordered by judge, line and n."""
        resamples = Resamples.draw(len(self.traces), self.seed, self.num_resamples)
        points = []
        for judge in self.panel.judges:
            judged = self._judged(judge)
            for line in self._lines(judge, judged):
                points += self._line_points(line, judge, judged, self._counts(), resamples)
        ends = sorted({self._counts()[0], self._counts()[-1]})
        for judge in self.panel.final_judges:
            judged = self._judged(judge)
            for line in self._final_lines(judge):
                points += self._line_points(line, judge, judged, ends, resamples)
        return with_gains(self._with_speakers(points), self.seed, self.num_resamples)

    def _with_speakers(self, points: Sequence[CurvePoint]) -> list[CurvePoint]:
        """The points with their intervals over speakers."""
        speakers_P = tuple(trace.prompt.speaker for trace in self.traces)
        num_speakers = len(set(speakers_P)) if all(speakers_P) else 0
        known = []
        for point in points:
            drawn_by = (self.seed, self.num_resamples)
            low, high = cluster_interval(point.scores_P, speakers_P, *drawn_by, point.ends)
            about = {"num_speakers": num_speakers, "speakers_P": speakers_P}
            known.append(replace(point, speaker_low=low, speaker_high=high, **about))
        return known

    def every_n(self) -> list[CurvePoint]:
        """The selectors' lines under the judges at every n from 1 to N, not only at powers of 2; for searches with
        independent candidates. Other searches have none."""
        if not self.algorithm.independent_candidates:
            return []
        resamples = Resamples.draw(len(self.traces), self.seed, self.num_resamples)
        numbers = list(range(1, self._counts()[-1] + 1))
        points = []
        for judge in self.panel.judges:
            judged = self._judged(judge)
            for line in self._lines(judge, judged):
                if line.selector is not None and not line.self_judged:
                    points += self._line_points(line, judge, judged, numbers, resamples)
        return points

    def _counts(self) -> list[int]:
        """The n of the curves. A search with dependent candidates has one: the maximum number per prompt."""
        numbers = {len(trace.candidates) for trace in self.traces}
        if not self.algorithm.independent_candidates:
            return [max(numbers)]
        if len(numbers) != 1:
            raise ValueError(f"Expected every prompt to have as many candidates, but got {sorted(numbers)}.")
        return candidate_counts(numbers.pop())

    def _judged(self, judge: Verifier) -> list[JudgedPrompt]:
        return [
            JudgedPrompt.from_scores(
                scores_of(trace.candidates, judge.facts.name),
                np.array([one.stopped for one in trace.candidates]),
                judge.facts.worst_score,
                float(judge.reference_length(trace.prompt)) if isinstance(judge, Transcribes) else math.nan,
            )
            for trace in self.traces
        ]

    def _lines(self, judge: Verifier, judged: list[JudgedPrompt]) -> list[Line]:
        """Chance, every selector with other models than the judge's, and the oracle, which selects by the judge's
        metric.

        Only the oracle if the judge has steered the search, since its candidates were already selected by the judge;
        with `panel.self_judged` the other selectors' lines too, labelled.
        """
        sizes = [len(trace.candidates) for trace in self.traces]
        chance = Line("random", None, lambda place, n: np.full(sizes[place], 1 / sizes[place]))
        lines = [] if self._has_steered(judge) else [chance]
        for selector in self.panel.selectors:
            scores_PN = [scores_of(trace.candidates, selector.facts.name) for trace in self.traces]
            lines += self._selector_lines(selector, judge, self._weights_by(scores_PN))
        metrics_PN = [prompt.metric_N for prompt in judged]
        return [*lines, Line(f"oracle ({judge.facts.name})", None, self._weights_by(metrics_PN), is_oracle=True)]

    def _selector_lines(self, selector: Verifier, judge: Verifier, weights: Weights) -> list[Line]:
        """The line of a selector under an independent judge. Under any other there is none, or a labelled one."""
        part = self._part_of(judge, selector)
        if not part:
            return [Line(selector.facts.name, selector, weights)]
        label = f"{selector.facts.name} {SELF_JUDGED}"
        return [Line(label, selector, weights, self_judged=part)] if self.panel.self_judged else []

    def _part_of(self, judge: Verifier, selector: Verifier) -> str:
        """How the judge's models took part in a selector's line: "steered", "selected", both; empty if not at all."""
        selects = bool(models_of(selector) & models_of(judge))
        return ", ".join(["steered"] * self._has_steered(judge) + ["selected"] * selects)

    def _weights_by(self, scores_PN: list[np.ndarray]) -> Weights:
        if self.algorithm.independent_candidates:
            return lambda place, n: selection_weights(scores_PN[place], n)
        return lambda place, n: selection_weights(scores_PN[place], len(scores_PN[place]))

    def _has_steered(self, judge: Verifier) -> bool:
        steering = [one for one in self.panel.selectors if one.facts.name in self.algorithm.verifier_names]
        return any(models_of(one) & models_of(judge) for one in steering)

    def _final_lines(self, judge: Verifier) -> list[Line]:
        """Lines under final judges: n = 1 is the first candidate (a random sample), N the one selected from all."""
        chance = Line("random", None, partial(self._one_hot, selector=None))
        lines = [] if self._has_steered(judge) else [chance]
        oracle = f"oracle ({judge.facts.name})"
        for selector in self.panel.selectors:
            weights = partial(self._one_hot, selector=selector)
            lines += self._selector_lines(selector, judge, weights)
            if self._part_of(judge, selector) and oracle not in {line.label for line in lines}:
                lines.append(Line(oracle, selector, weights, is_oracle=True))
        return lines

    def _one_hot(self, place: int, n: int, selector: Verifier | None) -> np.ndarray:
        candidates = self.traces[place].candidates
        weights_N = np.zeros(len(candidates))
        is_first = selector is None or (n == 1 and self.algorithm.independent_candidates)
        weights_N[0 if is_first else chosen_index(candidates, selector.facts.name)] = 1
        return weights_N

    def _line_points(
        self, line: Line, judge: Verifier, judged: list[JudgedPrompt], numbers: list[int], resamples: Resamples
    ) -> list[CurvePoint]:
        scored = [one for trace in self.traces for one in trace.candidates if judge.facts.name in one.scores]
        num_unjudged = sum(bool(np.isnan(one.scores[judge.facts.name])) and one.stopped for one in scored)
        num_runaways = sum(not one.stopped for one in scored)
        points = []
        for n in numbers:
            weights_PN = [line.weights(place, n) for place in range(len(self.traces))]
            scores_P = expected_scores(judged, weights_PN)
            low, high = bootstrap_interval(scores_P, resamples, ends_of(judge))
            score_judged_only, judged_mass = judged_only_score(judged, weights_PN)
            cost = self._cost(line, n)
            points.append(
                CurvePoint(
                    algorithm=self.algorithm.name,
                    selector=line.label,
                    judge=judge.facts.name,
                    n=n,
                    score=float(scores_P.mean()),
                    low=low,
                    high=high,
                    num_prompts=len(self.traces),
                    num_unjudged=num_unjudged,
                    num_runaways=num_runaways,
                    score_judged_only=score_judged_only,
                    prompt_set=self.prompt_set,
                    flops=cost.flops,
                    seconds=cost.seconds,
                    temperature=self.temperature,
                    score_corpus=corpus_score(judged, scores_P),
                    chosen_runaways=expected_runaways(judged, weights_PN),
                    scores_P=scores_P,
                    ends=ends_of(judge),
                    worst_score=judge.facts.worst_score,
                    judged_mass=judged_mass,
                    shared_families="" if line.is_oracle or line.self_judged else shared_families(line.selector, judge),
                    self_judged=line.self_judged,
                    selector_families=families_of(line.selector),
                    judge_families=families_of(judge),
                )
            )
        return points

    def _cost(self, line: Line, n: int) -> Cost:
        """Mean cost per prompt. NaN for the oracle. Chance costs one sample. No selection cost where there is one
        candidate: at n = 1 of independent ones, or where a search returns one for a prompt."""
        if line.is_oracle:
            return Cost(math.nan, math.nan, math.nan, math.nan)
        chooser, is_curve = line.selector, self.algorithm.independent_candidates
        names = [] if chooser is None else [chooser.facts.name]
        selecting = [name for name in names if name not in self.algorithm.verifier_names]
        num_drawn = (1 if chooser is None else n) if is_curve else None
        costs = []
        for trace in self.traces:
            num_candidates = n if is_curve else len(trace.candidates)
            costs.append(search_cost(trace, selecting if num_candidates > 1 else [], num_drawn))
        return Cost(*(float(np.mean([getattr(cost, part.name) for cost in costs])) for part in fields(Cost)))


def with_gains(points: Sequence[CurvePoint], seed: int, num_resamples: int = 2000) -> list[CurvePoint]:
    """The points of one prompt set, each with the paired difference from chance at its n, under its judge."""
    chance = {(point.judge, point.n): point.scores_P for point in points if point.selector == "random"}
    resamples = Resamples.draw(points[0].num_prompts, seed, num_resamples) if chance else None
    gained = []
    for point in points:
        if (baseline_P := chance.get((point.judge, point.n))) is not None:
            low, high = bootstrap_interval(point.scores_P - baseline_P, resamples, difference_ends(point.ends))
            mean = float((point.scores_P - baseline_P).mean())
            point = replace(point, gain=mean, gain_low=low, gain_high=high)
        gained.append(point)
    return gained


def scores_of(candidates: Sequence[Candidate], name: str) -> np.ndarray:
    """Scores as (N,) float64; NaN if the verifier could not score the candidate or did not score it."""
    return np.array([candidate.scores.get(name, np.nan) for candidate in candidates], dtype=np.float64)
