"""Tables of a sweep's page: selections per prompt, scores and costs per search, warnings."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest

from callbacks.scaling_report import ScalingReport
from modules.report.figures import cost_figure
from modules.report.quoted_rows import measured_rows
from modules.report.sweep_page import ReportInput, judged_curves, report_page
from modules.report.sweep_tables import (
    final_pitch_scores,
    final_points,
    most_telling,
    prompt_lines,
    prompt_rows,
    warnings_of,
)
from modules.search.analysis.comparisons import Comparison
from modules.search.analysis.overoptimisation import OverOptimisation
from modules.search.analysis.pitch_scores import pitch_scores
from modules.search.analysis.results import write_prompt_scores
from modules.search.panel import chosen_index
from tests.callbacks.test_sweep_grid import run
from tests.toys.report_toys import Page, curve, tone_sweep


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tone_sweep(tmp_path_factory.mktemp("run")).results


def judged(candidate):
    """The judge's score as counted in the tables: failures and runaways have the worst."""
    score = candidate.scores["listener"]
    return 0.0 if math.isnan(score) or not candidate.stopped else score


def test_every_prompt_shows_the_choices_that_were_made_for_it(results, tmp_path):
    """Guards against rows of another prompt, an order that hides the bad ones, and a file with other numbers."""
    points = [point for point in results.points if point.judge == "listener"]
    rows = prompt_rows(points, results.traces("tones"))
    names = [point.selector for point in prompt_lines(points)]
    assert names == ["random", "closeness", "likelihood", "oracle (listener)"]
    traces = {trace.prompt.key: trace for trace in results.traces("tones")}
    assert sorted(row.key for row in rows) == sorted(traces)
    for row in rows:
        trace = traces[row.key]
        chosen = [trace.candidates[chosen_index(trace.candidates, name)] for name in ("closeness", "likelihood")]
        scores = [judged(candidate) for candidate in trace.candidates]
        expected = [np.mean(scores), *map(judged, chosen), max(scores)]
        assert row.scores == pytest.approx(expected)
        assert (row.text, row.speaker) == (trace.prompt.text, "tone")
    assert [row.scores[1] for row in rows] == sorted(row.scores[1] for row in rows)
    write_prompt_scores(results, tmp_path / "prompts.csv")
    with (tmp_path / "prompts.csv").open() as stream:
        written = list(csv.DictReader(stream))
    assert len(written) == 3 * len(results.points)
    for row in written:
        (point,) = (one for one in points if (one.selector, one.n) == (row["selector"], int(row["n"])))
        place = [trace.prompt.key for trace in results.traces("tones")].index(row["prompt_key"])
        assert float(row["score"]) == point.scores_P[place]


def test_the_page_shows_opinion_scores_by_pitch(results, tmp_path_factory):
    """Guards against a page that hides them, mixes in the oracle's or those of fewer candidates, and shows them for a
    judge of another scale. The tones are of 450 to 550 Hz."""
    points = results.points
    prompts = {"tones": [trace.prompt for trace in results.traces("tones")]}
    assert results.pitch_scores == [] == pitch_scores(points, prompts, [])
    judged = replace(results, pitch_scores=pitch_scores(points, prompts, {point.judge for point in points}))
    shown = final_pitch_scores(judged)
    assert [(row.selector, row.n, row.group) for row in shown] == [
        (name, n, "high") for name, n in (("random", 1), ("closeness", 4), ("likelihood", 4))
    ]
    alone = Page(report_page(ReportInput("t", judged, [], frozenset(), "a\n1\n", "command", {})))
    assert "by-pitch" not in alone.tables, "one group of voices has nothing to compare with"
    low = [replace(row, group="low") for row in judged.pitch_scores]
    both = replace(judged, pitch_scores=[*judged.pitch_scores, *low])
    page = Page(report_page(ReportInput("t", both, [], frozenset(), "a\n1\n", "command", {})))
    assert [row[2:4] for row in page.tables["by-pitch"][1:]] == 2 * [
        ["random choice", "1"], ["closeness", "4"], ["likelihood", "4"]
    ]  # fmt: skip


def test_searches_are_plotted_at_their_cost():
    """Guards against a beam drawn at its n, an error upside down, N samples charged to random choice, and the oracle
    among the searches."""
    best = [replace(one, flops=100.0 * one.n, temperature=0.9) for one in curve("a", [0.5, 0.6, 0.7])]
    chance = [replace(one, flops=100.0, temperature=0.9) for one in curve("random", [0.5] * 3)]
    oracle = [replace(one, flops=math.nan, temperature=0.9) for one in curve("oracle (listener)", [0.5, 0.9, 1.0])]
    beam = replace(best[2], algorithm="process_beam", flops=250.0, score=0.8, low=0.6, high=0.9)
    points = [*best, *chance, *oracle, beam]
    panel = cost_figure(points, "flops", as_error=True).axes[0]
    drawn = {(line.get_marker(), *map(float, line.get_xdata())): line.get_ydata() for line in panel.lines if
             line.get_marker() in ("o", "s")}  # fmt: skip
    assert set(drawn) == {("o", 100.0, 200.0, 400.0), ("o", 100.0), ("s", 250.0)}
    np.testing.assert_allclose(drawn["o", 100.0, 200.0, 400.0], [0.5, 0.4, 0.3])
    np.testing.assert_allclose(drawn["s", 250.0], [0.2])
    (whisker,) = (one for one in panel.collections if hasattr(one, "get_segments") and
                  np.allclose(one.get_segments()[0][:, 0], 250))  # fmt: skip
    np.testing.assert_allclose(whisker.get_segments()[0][:, 1], [0.1, 0.4])
    labels = {text.get_text() for text in panel.get_legend().get_texts()}
    assert labels == {"best by a", "random choice", "best_of_n T=0.9", "process_beam T=0.9"}
    assert "FLOPs" in panel.get_xlabel() and panel.get_xscale() == "log"
    assert "seconds" in cost_figure([replace(beam, seconds=2.0)], "seconds").axes[0].get_xlabel()
    assert final_points(points) == [best[2], chance[0], beam]


def test_the_page_shows_every_search_of_a_grid_at_its_cost(tmp_path):
    """Guards against a page that shows only the first algorithm and temperature."""
    callback, _, _ = run(tmp_path, more_seeds=[1])
    page = Page((tmp_path / "report" / "index.html").read_text())
    rows = next(table for table in page.tables.values() if table and table[0][0] == "search")
    finals = final_points(callback.results.points)
    assert len(rows) - 1 == len(finals) == 6 * 2
    for shown, point in zip(rows[1:], finals, strict=True):
        cells = dict(zip(rows[0], shown, strict=True))
        assert cells["search"] == f"{point.algorithm} T={point.temperature:g}"
        assert cells["score"].startswith(f"{point.score:.3f}") and f"2 seeds: ± {point.seed_deviation:.3f}" in "".join(
            " ".join(cells["score"].split())
        )
        assert cells["FLOPs"] == f"{point.flops:.2e}" and cells["seconds"] == f"{point.seconds:.3g}"
    header, *rows = page.tables["equal-compute"]
    assert [row[header.index("search")] for row in rows] == [one.search for one in callback.results.equal_compute]
    header, *rows = page.tables["comparisons"]
    shown = {(row[header.index("first")], row[header.index("second")]) for row in rows}
    assert shown == {(one.first, one.second) for one in most_telling(callback.results.comparisons)}
    swept = callback.results.swept
    assert len({(one.search, one.seed) for one in swept}) == 12
    lm_flops = sum(one.trace.cost.lm_flops for one in swept)
    assert f"language model {lm_flops:.2e} FLOPs" in page.text
    pictures = [curves.has_costs for curves in judged_curves(callback.results.first_points, frozenset())]
    assert pictures == [True]


def test_every_temperature_is_shown_with_the_quoted_rows():
    """Guards against omitting an adaptive search where it sampled fewer candidates than at another temperature."""
    (point,) = curve("a", [0.5])
    points = [replace(point, algorithm="adaptive", temperature=heat, n=n) for heat, n in ((0.6, 7), (0.9, 5))]
    columns = {"score": f"{point.prompt_set}/{point.judge}"}
    rows = measured_rows(["system", "score"], columns, points, frozenset())
    labels = [f"measured: adaptive T={heat}: a, n={n}" for heat, n in ((0.6, 7), (0.9, 5))]
    assert rows == [[label, "0.500"] for label in labels]


def test_comparisons_are_those_at_the_largest_n():
    """Guards against a page of pairs at n = 1, where all lines coincide."""

    def pair(judge, n, p_value):
        return Comparison("set", judge, n, "a", "b", 0.1, 0.0, 0.2, p_value, 5)

    shown = most_telling([pair("one", 1, 0.0), pair("one", 4, 0.5), pair("one", 4, 0.2), pair("two", 2, 0.3)])
    assert [(row.judge, row.n, row.p_value) for row in shown] == [("one", 4, 0.2), ("two", 2, 0.3), ("one", 4, 0.5)]


def test_warnings_stand_once_above_the_table(tmp_path):
    """Guards against a warning out of sight, and one repeated for every search."""
    scaling = tone_sweep(tmp_path)
    row = OverOptimisation("tones", "best_of_n", "closeness", "listener", 4, warning="over-optimised: listener falls")
    rows = [row, replace(row, temperature=0.5), replace(row, prompt_set="others"), replace(row, warning="")]
    results = replace(scaling.results, over_optimisation=rows)
    assert warnings_of(results) == ["closeness: over-optimised: listener falls (others, tones)."]
    page, _, _ = ScalingReport("Tones", num_examples=0)._page(scaling, results)
    text = Page(page).text
    assert text.index("closeness: over-optimised: listener falls (others, tones).") < text.index("own score")
