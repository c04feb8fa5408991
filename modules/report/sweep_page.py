"""The sweep report: renders results and examples to one self-contained HTML page. Pure functions.

The HTML is in the Jinja template sweep_page.html; this module fills it.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from markupsafe import Markup

from modules.api import Cost
from modules.audio import encoded
from modules.evaluation.quoted_table import QuotedTable
from modules.pitch import WHY_BY_PITCH
from modules.report.examples import Example
from modules.report.figures import (
    both_widths,
    cost_figure,
    curve_figure,
    is_baseline,
    is_oracle,
    is_self_judged,
)
from modules.report.glossary import GlossaryLine
from modules.report.mel_picture import mel_picture
from modules.report.page import data_uri, page_environment, readable_setting
from modules.report.sweep_tables import (
    final_pitch_scores,
    final_points,
    most_telling,
    prompt_lines,
    prompt_rows,
    warnings_of,
)
from modules.report.training_record import TrainingRecord, training_picture
from modules.search.analysis.comparisons import setting_label
from modules.search.analysis.expected_best_of_n import CurvePoint
from modules.search.analysis.results import SweepResults

# FLAC is lossless and widely supported; above this size of 16-bit audio the page uses Vorbis, a fifth of the size.
MAX_LOSSLESS_BYTES = 4_000_000


@dataclass(frozen=True)
class ReportInput:
    """Content of the page. `error_judges`: verifiers whose score is 1 - error rate. `credits`: name to text.

    `quoted`: published rows, and `measured` the sweep's own in their columns. `trained`: a sentence on the model.
    """

    title: str
    results: SweepResults
    examples: list[Example]
    error_judges: frozenset[str]
    curve_csv: str
    command: str
    credits: dict[str, str]
    quoted: QuotedTable | None = None
    measured: list[list[str]] = field(default_factory=list)
    trained: str = ""
    glossary: list[GlossaryLine] = field(default_factory=list)
    training: TrainingRecord = field(default_factory=TrainingRecord)


@dataclass(frozen=True)
class JudgedCurves:
    """The curves of one prompt set under one judge; with `as_error` the page shows 1 - score."""

    points: list[CurvePoint]
    as_error: bool
    all_selectors: tuple[str, ...] = ()  # of the whole page: each keeps its colour
    of_all_settings: list[CurvePoint] = field(default_factory=list)  # of every model, algorithm and temperature

    @property
    def prompt_set(self) -> str:
        return self.points[0].prompt_set

    @property
    def judge(self) -> str:
        return self.points[0].judge

    @property
    def counts(self) -> list[int]:
        """The n of the points, ascending."""
        return sorted({point.n for point in self.points})

    @property
    def selectors(self) -> list[str]:
        return list(dict.fromkeys(point.selector for point in self.points))

    @property
    def finals(self) -> list[CurvePoint]:
        """The final point of every setting and selector, with its cost."""
        return final_points(self.of_all_settings or self.points)

    @property
    def has_costs(self) -> bool:
        return any(point.flops > 0 for point in self.points)

    @property
    def one_sample(self) -> CurvePoint:
        return min(self.points, key=lambda point: (point.n, point.selector != "random"))

    @property
    def rivals(self) -> list[CurvePoint]:
        """The selectors that are independent of the judge, at the largest n. Empty if there is only one candidate."""
        if len(self.counts) == 1:
            return []
        return [one for one in self.points if one.n == self.counts[-1] and not is_baseline(one.selector)]

    @property
    def num_selectors(self) -> int:
        return len(self.rivals)

    @property
    def best(self) -> CurvePoint | None:
        return max(self.rivals, key=lambda point: point.score, default=None)

    @property
    def oracle(self) -> CurvePoint | None:
        at_end = [point for point in self.points if point.n == self.counts[-1] and is_oracle(point.selector)]
        return at_end[0] if at_end and len(self.counts) > 1 else None

    def points_of(self, selector: str) -> list[CurvePoint]:
        return [point for point in self.points if point.selector == selector]

    def point(self, selector: str, n: int) -> CurvePoint | None:
        return next((point for point in self.points_of(selector) if point.n == n), None)


def judged_curves(
    points: Sequence[CurvePoint], error_judges: frozenset[str], all_points: Sequence[CurvePoint] = ()
) -> list[JudgedCurves]:
    """Group the points by prompt set and judge, in the order of the results; `all_points` are of every setting."""
    groups: dict[tuple[str, str], list[CurvePoint]] = {}
    for point in points:
        groups.setdefault((point.prompt_set, point.judge), []).append(point)
    selectors = tuple(dict.fromkeys(point.selector for point in points))
    return [
        JudgedCurves(
            group,
            pair[1] in error_judges,
            selectors,
            [one for one in all_points if (one.prompt_set, one.judge) == pair],
        )
        for pair, group in groups.items()
    ]


def report_page(report: ReportInput) -> str:
    """Render the page. Figures, audio and the CSV are data URIs; it makes no network requests."""
    clips = [clip for example in report.examples for clip in [*example.clips, *example.more]]
    num_bytes = sum(2 * clip.audio.samples_T.numel() for clip in clips)
    audio_format = "flac" if num_bytes <= MAX_LOSSLESS_BYTES else "ogg"
    environment = page_environment()
    environment.tests["oracle"] = is_oracle
    environment.filters |= {
        "score": readable_score,
        "interval": readable_interval,
        "speaker_interval": lambda point, as_error: readable_interval(
            replace(point, low=point.speaker_low, high=point.speaker_high), as_error
        ),
        "selector_name": readable_selector,
        "shortened": shortened_number,
        "plain": readable_setting,
        "compute": readable_compute,
        "setting": setting_label,
        "p_value": lambda value: "< 0.001" if value < 0.001 else readable_number(value, "%.3f"),
        "number": readable_number,
        "percentage": lambda value: "–" if math.isnan(value) else f"{100 * value:.1f} %",
        "prompt_rows": lambda curve: prompt_rows(curve.points, report.results.traces(curve.prompt_set)),
        "prompt_lines": lambda curve: prompt_lines(curve.points),
        "cost_picture": cost_picture,
        "num_asked": partial(num_asked, results=report.results),
        "picture": curve_picture,
        "audio_uri": lambda audio: data_uri(encoded(audio, audio_format), f"audio/{audio_format}"),
        "mel_picture": mel_picture,
        "training_picture": training_picture,
        "csv_uri": lambda text: data_uri(text.encode(), "text/csv"),
    }
    return environment.get_template("sweep_page.html").render(
        report=report,
        results=report.results,
        curves=judged_curves(report.results.first_points, report.error_judges, report.results.points),
        num_prompts=Counter(one.prompt_set for one in report.results.first_swept),
        has_disagreement=any(not math.isnan(row.disagreement) for row in report.results.over_optimisation),
        warnings=warnings_of(report.results),
        by_pitch=final_pitch_scores(report.results),
        why_by_pitch=WHY_BY_PITCH,
        comparisons=most_telling(report.results.comparisons),
        has_self_judged=any(is_self_judged(one.selector) for one in report.results.points),
        csv_rows=list(csv.DictReader(io.StringIO(report.curve_csv))),
    )


def headlines(points: Sequence[CurvePoint], error_judges: frozenset[str]) -> list[str]:
    """A line for each prompt set: what the best choice gained, under the first judge that is independent of one."""
    lines: dict[str, str] = {}
    for curve in judged_curves(points, error_judges):
        if curve.best is not None:
            one, best = (readable_score(point.score, curve.as_error) for point in (curve.one_sample, curve.best))
            what = f"{curve.prompt_set}, {'error' if curve.as_error else 'score'} by {curve.judge}"
            line = f"{what}: one sample {one}, best of {curve.best.n} by {curve.best.selector} {best}"
            lines.setdefault(curve.prompt_set, line)
    return list(lines.values())


def curve_picture(curves: JudgedCurves, as_error: bool) -> Markup:
    """The curves as inline SVGs in the page's text colour."""
    what = "error" if as_error else "score"
    description = f"{curves.prompt_set}: {what} by {curves.judge} against the number of candidates"
    return both_widths(partial(curve_figure, curves.points, as_error, curves.all_selectors), description)


def cost_picture(curves: JudgedCurves, cost: Literal["flops", "seconds"]) -> Markup:
    """Scores of all settings against their cost, as inline SVGs in the page's text colour."""
    what = "error" if curves.as_error else "score"
    description = f"{curves.prompt_set}: {what} by {curves.judge} against {cost}"
    points = curves.of_all_settings or curves.points
    return both_widths(partial(cost_figure, points, cost, curves.as_error, curves.all_selectors), description)


def readable_score(value: float, as_error: bool) -> str:
    """Format an error rate in percent, any other score with three digits; NaN as a dash."""
    if math.isnan(value):
        return "–"
    return f"{100 * (1 - value):.1f} %" if as_error else f"{value + 0.0:.3f}"  # no "-0.000"


def readable_number(value: float, form: str) -> str:
    """Format with a printf format; NaN as a dash."""
    return "–" if math.isnan(value) else form % value


def readable_interval(point: CurvePoint, as_error: bool) -> str:
    """Format as "lower to upper"; for errors the ends are swapped."""
    if as_error:
        return f"{100 * (1 - point.high):.1f} to {100 * (1 - point.low):.1f} %"
    return f"{point.low:.3f} to {point.high:.3f}"


def readable_selector(selector: str) -> str:
    """The selector's label in tables."""
    if is_oracle(selector):
        return "oracle (selected by the judge)"
    return "random choice" if selector == "random" else selector


def shortened_number(cell: str) -> str:
    """Shorten a float of a CSV to five digits; everything else is unchanged."""
    try:
        return cell if cell.lstrip("-").isdigit() else f"{float(cell):.5g}"
    except ValueError:
        return cell


def readable_compute(results: SweepResults) -> str:
    """FLOPs by part and wall seconds of all prompts, summed over every search and seed, judges included."""
    traces = [one.trace for one in results.swept]
    total = sum((trace.cost for trace in traces), Cost())
    heard: dict[str, Cost] = {}
    for candidate in [one for trace in traces for one in trace.candidates]:
        for name, cost in candidate.verifier_costs.items():
            heard[name] = heard.get(name, Cost()) + cost
    parts = {"language model": total.lm_flops, "codec": total.codec_flops}
    if total.verifier_flops:
        parts["steering verifiers"] = total.verifier_flops
    search = ", ".join(f"{name} {flops:.2e} FLOPs" for name, flops in parts.items())
    hearing = [f"{name} {cost.verifier_flops:.2e} FLOPs, {cost.seconds:.0f} s" for name, cost in heard.items()]
    return "; ".join([f"{search}, {total.seconds:.0f} s", *hearing])


def num_asked(curves: JudgedCurves, results: SweepResults) -> int:
    """Number of samples of all seeds that the judge scored: all, or for a final judge the first and the selected
    ones."""
    first = [one for one in results.swept if one.search == results.swept[0].search]
    candidates = [one for own in first if own.prompt_set == curves.prompt_set for one in own.trace.candidates]
    return sum(curves.judge in candidate.scores for candidate in candidates)
