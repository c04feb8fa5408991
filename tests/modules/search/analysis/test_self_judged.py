"""Lines whose judge selected or steered: labelled wherever they are named, equal to a loop, and absent by default."""

import csv
import io
import itertools
import json
import re
from types import SimpleNamespace

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from callbacks.inference_scaling import InferenceScaling
from callbacks.scaling_report import ScalingReport
from modules.api import SamplingSettings
from modules.report import figures
from modules.report.figures import cost_figure, curve_figure
from modules.report.quoted_rows import QuotedRows
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.algorithms.partial_beam import PartialBeam
from modules.search.analysis.results import read_rows
from modules.search.panel import Panel
from scripts.compare_sweeps import compare_models
from tests.callbacks.test_inference_scaling import ToyPrompts
from tests.callbacks.test_sweep_grid import PartialVerifier, TreeModule
from tests.toys.report_toys import Page
from tests.toys.search_toys import ToyCodec, TreeSampler, WritingVerifier, mean_level, toy_prompts

LABEL = "(self-judged, as in the paper)"
PEAK, START = (lambda samples_T: float(samples_T.max())), (lambda samples_T: float(samples_T[:64].mean()))
QUOTED = "# Quoted from a paper.\nmodel,WER %,SIM\n+ partial PRM (SIM),2.30,0.761\n"


def swept(folder, **changes) -> InferenceScaling:
    """Two judges, SIM and WER; SIM also steers the second search, `ours` the third. `dear` is a final judge."""
    judges = [PartialVerifier("SIM", mean_level), WritingVerifier("WER", PEAK)]
    ours = PartialVerifier("ours", START)
    steering = ("SIM", "ours") if "self_judged" in changes else ("ours",)
    steered = [PartialBeam(name, 3, 2, 2, 40, 12, 6) for name in steering]
    (folder / "quoted.csv").write_text(QUOTED)
    quoted = QuotedRows(folder / "quoted.csv", {"WER %": "set/WER", "SIM": "set/SIM"})
    scaling = InferenceScaling(
        ToyCodec(), BestOfN(4, 40), SamplingSettings(), [ours], judges, folder, num_resamples=50,
        final_judges=[PartialVerifier("dear", lambda samples_T: float(samples_T[-1]))], more_algorithms=steered,
        **changes,
    )  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", logger=CSVLogger(folder, name="log", version=""), enable_progress_bar=False,
        callbacks=[scaling, ScalingReport(num_examples=1, quoted=quoted)], enable_model_summary=False,
        default_root_dir=folder,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "inline_svg", lambda figure, description: "")  # seconds each; see curve_figure below
        trainer.test(TreeModule(TreeSampler()), datamodule=ToyPrompts({"set": toy_prompts(4)}), verbose=False)
    return scaling


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """A sweep in the paper's protocol: what it left, its printed text, its page."""
    folder, capture = tmp_path_factory.mktemp("paper"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", capture)
        scaling = swept(folder, self_judged=True)
    report = folder / "report"
    page = Page((report / "index.html").read_text())
    return SimpleNamespace(scaling=scaling, folder=folder, report=report, page=page, printed=capture.getvalue())


def mean_of_best(candidates, selector, judge) -> float:
    """The judge's score of the candidate that the selector likes best, averaged over ties; -1 where it never ended."""
    highest = max(one.scores[selector] for one in candidates)
    scores = [one.scores[judge] if one.stopped else -1.0 for one in candidates if one.scores[selector] == highest]
    return sum(scores) / len(scores)


def test_the_numbers_are_those_of_a_loop(paper):
    """Guards against a self-judged row that shows the oracle, another search or another selector: for every prompt the
    selector's candidate, at the judge's score."""
    results = paper.scaling.results
    most = {one.algorithm: max(other.n for other in results.points if other.algorithm == one.algorithm)
            for one in results.points}  # fmt: skip
    found = {(one.algorithm, one.selector, one.judge): (one.score, one.self_judged)
             for one in results.points if one.self_judged and one.n == most[one.algorithm]}  # fmt: skip
    expected = {}
    for search in most:
        traces = [own.trace for own in results.swept if own.algorithm == search]
        for judge, selector in itertools.product(("SIM", "WER"), ("ours", "SIM", "WER")):
            parts = ["steered"] * search.endswith(f"reward={judge}") + ["selected"] * (selector == judge)
            scores = [mean_of_best(trace.candidates, selector, judge) for trace in traces]
            if parts:
                number = pytest.approx(sum(scores) / len(scores), abs=1e-9)
                expected[search, f"{selector} {LABEL}", judge] = (number, ", ".join(parts))
    assert found == expected and len(expected) == 2 + 4 + 2
    assert {part for _, part in found.values()} == {"selected", "steered", "steered, selected"}


def test_no_row_of_a_judge_that_took_part_is_without_a_label(paper):
    """Guards against any file in which such a number passes for an independent judgement."""

    def is_named(search: str, selector: str, judge: str) -> bool:
        name = selector.removesuffix(f" {LABEL}")
        took_part = judge in (name, *re.findall("reward=(.*)", search))
        return selector.endswith(LABEL) == took_part or selector.startswith("oracle (")

    for name in ("curve", "prompts"):
        rows = read_rows(paper.report / f"{name}.csv")
        assert all(
            is_named(row["algorithm"], row["selector"], row["judge"]) for row in rows if row["selector"] != "random"
        )
        assert any(row["selector"].endswith(LABEL) for row in rows)
    for row in read_rows(paper.report / "curve.csv"):
        assert bool(row["self_judged"]) == row["selector"].endswith(LABEL)
        assert not row["self_judged"] or (row["holds_under_every_family"], row["shared_families"]) == ("", "")
    assert not [row for row in read_rows(paper.report / "curve.csv") if row["judge"] == "SIM" and "reward=SIM" in
                row["algorithm"] and row["selector"] in ("random", "ours", "SIM", "WER")]  # fmt: skip
    chosen = json.loads((paper.report / "summary.json").read_text())["chosen"]["set"]
    assert paper.scaling.results.selectors == list(chosen) == ["ours"]
    clips = set(re.findall(r'class="badge">(best of [^<]*)<', (paper.report / "index.html").read_text()))
    assert clips == {"best of 4 by ours"}
    for name in ("comparisons", "equal_compute", "over_optimisation"):
        text = (paper.report / f"{name}.csv").read_text()
        assert LABEL not in text and len(text.splitlines()) > 1, name
    for row in read_rows(paper.report / "over_optimisation.csv"):
        assert row["selector"] != row["judge"]
    tags = next(csv.reader(io.StringIO((paper.folder / "log/metrics.csv").read_text())))
    assert f"set/SIM/SIM {LABEL}" in tags and "set/SIM/SIM" not in tags
    rows = read_rows(paper.report / "prompts.csv")
    assert not [one for one in compare_models({"a": rows, "b": rows}, num_resamples=20) if LABEL in one.first]
    dear = {one.selector for one in paper.scaling.results.points if one.judge == "dear"}
    assert dear == {"random", "ours", "SIM", "WER"}  # a final judge that took no part


def test_rows_stand_beside_ours_and_the_quoted_ones(paper):
    """Guards against a printed table or page where the paper's row cannot be found, or is not labelled in its cell."""
    table = paper.page.tables["measured-rows"]
    cells = {row[0].removeprefix("measured: "): row[1:] for row in table[1:]}
    assert paper.page.tables["quoted-rows"][1] == ["+ partial PRM (SIM)", "2.30", "0.761"]
    paper_row = cells["partial_beam reward=SIM T=1: SIM, n=6"]
    assert paper_row[1].endswith(f" {LABEL}") and LABEL not in paper_row[0]  # WER is independent of SIM
    assert all(cell.endswith(f" {LABEL}") for cell in cells["partial_beam reward=SIM T=1: WER, n=6"])
    assert not any(LABEL in cell for cell in cells["partial_beam reward=ours T=1: ours, n=6"])
    assert [LABEL in cell for cell in cells["partial_beam reward=SIM T=1: ours, n=6"]] == [False, True]
    for row in table[1:]:
        assert any(line.split() == " ".join(row).split() for line in paper.printed.splitlines()), row
    assert paper.page.text.count("the judge's own model selected the sample or steered the search") == 2
    headline = paper.page.text[: paper.page.text.index("Score against the number")]
    assert LABEL not in headline and "selected by SIM" not in headline.split("score by SIM")[1].split("1 - score")[0]
    pivots = [
        table for name, table in paper.page.tables.items() if table[0][0] == "chosen by" and name != "over-optimisation"
    ]
    assert any(row[0] == f"SIM {LABEL}" for table in pivots for row in table)
    points = [one for one in paper.scaling.results.first_points if one.judge == "SIM"]
    everything = [one for one in paper.scaling.results.points if one.judge == "SIM"]
    for figure in (curve_figure(points), cost_figure(everything, "flops")):
        named = " ".join(text.get_text() for text in figure.axes[0].get_legend().get_texts())
        assert f"best by SIM {LABEL}" in " ".join(named.split())


def test_without_it_nothing_of_it_is_there(tmp_path, paper):
    """Guards against self-judged rows that nobody asked for, and independent rows that change with them."""
    plain = swept(tmp_path)
    for path in (tmp_path / "report").glob("*.*"):
        if path.suffix != ".parquet":
            assert "self-judged" not in path.read_text(), path.name
    rows = read_rows(tmp_path / "report/curve.csv")
    assert {row["selector"] for row in rows} == {"random", "ours", "oracle (SIM)", "oracle (WER)"}
    assert {row["self_judged"] for row in rows} == {""}
    ours = {(one.selector, one.judge, one.n): one.score for one in plain.results.first_points}
    theirs = {(one.selector, one.judge, one.n): one.score for one in paper.scaling.results.first_points}
    assert ours.items() <= theirs.items()
    with pytest.raises(ValueError, match="one of the selectors \\['ours'\\], but got 'SIM'"):
        swept(tmp_path, seed=1, self_judged=False)
    with pytest.raises(ValueError, match="not to be a reserved line"):
        Panel([PartialVerifier(f"x {LABEL}", mean_level)], [PartialVerifier("y", mean_level)])
