"""Judges of the selector's family are labelled wherever lines are named, and excluded from verdicts: by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger

from callbacks.inference_scaling import log_points
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.analysis.comparisons import SAME_FAMILY, compare
from modules.search.analysis.curves import CurveCalculator
from modules.search.analysis.expected_best_of_n import CurvePoint
from modules.search.analysis.families import with_verdicts
from modules.search.analysis.overoptimisation import over_optimisation
from modules.search.analysis.results import read_rows
from modules.search.panel import Panel
from tests.callbacks.test_sweep_grid import run
from tests.modules.search.analysis.test_overoptimisation import PartialVerifier, traces_with
from tests.toys.report_toys import Page
from tests.toys.search_toys import ToyVerifier, mean_level


class KinVerifier(ToyVerifier):
    """A verifier of given families."""

    def __init__(self, name: str, *families: str) -> None:
        super().__init__(name, mean_level)
        self.families = frozenset(families)


def points_of(judges: list[KinVerifier], gains: dict[str, float], selector: KinVerifier) -> list[CurvePoint]:
    """Curves of 60 prompts and two candidates: the selector always takes the second, which each judge scores higher by
    `gains`."""
    generator = np.random.default_rng(0)
    base = generator.uniform(-0.5, 0.2, size=(60, 1))
    scores = {name: np.concatenate([base, base + gain], axis=1) for name, gain in gains.items()}
    traces = traces_with({selector.name: np.tile([0.0, 1.0], (60, 1))} | scores)
    return CurveCalculator("set", BestOfN(2, 10), traces, Panel([selector], judges), 0, 400, 0.7).points()


def verdict(judges: list[KinVerifier], gains: dict[str, float], selector: KinVerifier) -> str:
    points = points_of(judges, gains, selector)
    judged = with_verdicts(points, points, 0, 400)
    assert all(not one.holds_under_every_family for one in judged if one.n == 1 or one.selector == "random")
    (found,) = {one.holds_under_every_family for one in judged if one.selector == selector.name and one.n == 2}
    return found


SMALL = KinVerifier("small", "whisper")


@pytest.mark.parametrize(
    ("gains", "families", "expected"),
    [
        ({"ctc": 0.6, "sphinx": 0.6}, {}, "yes"),
        ({"ctc": 0.6, "sphinx": 0.0}, {}, "no: sphinx"),
        ({"ctc": 0.6, "sphinx": -0.6}, {}, "no: sphinx"),
        ({"ctc": 0.6, "large": 0.6}, {"large": ["whisper"]}, "not known"),  # same family: no confirmation
        ({"ctc": 0.6, "sphinx": 0.6, "large": -0.6}, {"large": ["whisper"]}, "yes"),
        ({"ctc": 0.6, "sphinx": 0.6}, {"sphinx": []}, "not known"),  # of unknown family
        ({"ctc": 0.6, "second": 0.6}, {"second": ["ctc"]}, "not known"),  # one family twice
        ({"ctc": 0.6, "second": 0.0, "sphinx": 0.6}, {"second": ["ctc"]}, "yes"),  # one judge per family suffices
        ({"ctc": 0.6, "both": 0.6}, {"both": ["sphinx", "whisper"]}, "not known"),  # an ensemble of the same family
    ],
)
def test_a_gain_holds_if_judges_of_every_other_family_confirm_it(gains, families, expected):
    """Guards against a gain under judges of the selector's family only, counting related judges as confirmation, and
    "yes" from one family only."""
    judges = [KinVerifier(name, *families.get(name, [name])) for name in gains]
    assert verdict(judges, gains, SMALL) == expected


def test_without_a_known_family_or_a_single_sample_nothing_is_known():
    """Guards against a verdict on a selector of unknown family, or on gains relative to other prompts."""
    judges, gains = [KinVerifier("ctc", "ctc"), KinVerifier("sphinx", "sphinx")], {"ctc": 0.6, "sphinx": 0.6}
    assert verdict(judges, gains, KinVerifier("anybody")) == "not known"
    points = points_of(judges, gains, SMALL)
    elsewhere = [replace(one, prompt_set="other") for one in points]
    assert {one.holds_under_every_family for one in with_verdicts(points, elsewhere, 0, 400)} == {"", "not known"}


def test_a_search_is_measured_from_one_sample_of_best_of_n():
    """Guards against measuring the gain over a random one of a search's candidates, which may all be better than a
    sample."""
    judges = [KinVerifier("ctc", "ctc"), KinVerifier("sphinx", "sphinx")]
    points = points_of(judges, {"ctc": 0.6, "sphinx": 0.6}, SMALL)
    chance = {one.judge: one.scores_P for one in points if one.selector == "random" and one.n == 2}
    beam = [
        replace(one, algorithm="beam", n=1, scores_P=chance[one.judge] + 0.5)
        for one in points
        if one.n == 2 and not one.selector.startswith("oracle")
    ]
    found = {one.selector: one.holds_under_every_family for one in with_verdicts(beam, points, 0, 400)}
    assert found == {"random": "", "small": "yes"}
    worse = [replace(one, scores_P=chance[one.judge] - 0.5) for one in beam]
    assert with_verdicts(worse, points, 0, 400)[-1].holds_under_every_family == "no: ctc, sphinx"


def test_lines_with_a_judge_of_the_family_are_labelled():
    """Guards against selection by Whisper tiny and judging by Whisper large without a label; oracle and random have no
    family."""
    judges = [KinVerifier("large", "whisper"), KinVerifier("ctc", "ctc")]
    points = points_of(judges, {"large": 0.6, "ctc": 0.6}, SMALL)
    labelled = {(one.selector, one.judge) for one in points if one.shared_families == "whisper"}
    assert labelled == {("small", "large")}
    assert all(one.shared_families in ("", "whisper") for one in points)
    labels = {(one.judge, one.second) for one in compare(points, 0, 50)}
    assert labels == {("large", f"best_of_n T=0.7: small {SAME_FAMILY}"), ("ctc", "best_of_n T=0.7: small")}
    base = np.zeros((60, 2))
    traces = traces_with({"small": base, "large": base, "ctc": base})
    rows = over_optimisation(points, [traces], Panel([SMALL], judges), 0, 50)
    assert {row.judge: row.shared_families for row in rows} == {"large": "whisper", "ctc": ""}
    ensemble = KinVerifier("pair", "whisper", "sphinx")
    pair = points_of([ensemble], {"pair": 0.6}, SMALL)
    assert {one.shared_families for one in pair if one.selector == "small"} == {"whisper"}
    assert all(math.isfinite(end) for one in pair for end in one.ends)


def test_page_curves_and_loggers_label_families(tmp_path):
    """Guards against labels missing in any of the places where lines are named."""
    relative = PartialVerifier("relative", mean_level)
    relative.families = frozenset({"judge"})
    callback, _, _ = run(tmp_path, more_algorithms=None, more_temperatures=None, more_selectors=[relative])
    rows = read_rows(tmp_path / "report" / "curve.csv")
    assert {(row["selector"], row["shared_families"]) for row in rows if row["shared_families"]} == {
        ("relative", "judge")
    }
    verdicts = {(row["selector"], row["holds_under_every_family"]) for row in rows if row["n"] == "4"}
    assert verdicts == {("random", ""), ("reward", "not known"), ("relative", "not known"), ("oracle (judge)", "")}
    page = Page((tmp_path / "report" / "index.html").read_text())
    assert page.text.count("same family as the judge: judge") >= 3  # the table, the costs, the gains of selection
    assert "holds under every family" in page.text and "not known" in page.text
    (about,) = [one for one in callback.results.description["verifiers"] if one["name"] == "relative"]
    assert about["families"] == ["judge"]
    logger = CSVLogger(tmp_path, name="log", version="")
    log_points([logger], callback.results)
    logger.save()
    header = (tmp_path / "log" / "metrics.csv").read_text().splitlines()[0]
    assert f"set/judge/relative {SAME_FAMILY}" in header and "set/judge/reward," in f"{header},"
