"""modules/report/training_record.py: the training behind a sweep, from the files of its runs."""

import json
import math

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from modules.evaluation.table import write_evaluation
from modules.report import figures
from modules.report.sweep_page import ReportInput, report_page
from modules.report.training_record import (
    MAX_POINTS,
    TrainedFacts,
    read_training,
    thinned,
    trained_sentence,
    training_figure,
)
from modules.statistics import Estimate
from tests.toys.report_toys import Page, tone_sweep


def log(folder, values_by_tag):
    writer = SummaryWriter(str(folder))
    for tag, values in values_by_tag.items():
        for step, value in values.items():
            writer.add_scalar(tag, value, step)
    writer.close()


@pytest.fixture
def runs(tmp_path):
    """A language model that was resumed at step 2, a codec that was validated once, and the codec's evaluation."""
    log(tmp_path / "lm" / "tensorboard", {"train/loss": {1: 8.0, 2: 7.0, 3: 9.0}, "val/loss": {1: 8.5, 3: math.nan}})
    log(tmp_path / "lm" / "tensorboard", {"train/loss": {3: 6.0, 4: 5.0}, "val/loss": {3: 6.5}})
    log(
        tmp_path / "codec" / "tensorboard", {"train/mel": {1: 2.0, 2: 1.0}, "val/mel": {2: 1.5}, "train/loss": {1: 9.0}}
    )
    table = {"recording": {"wer": Estimate(0.125, 0.1, 0.15, 9, 0), "stoi": Estimate(math.nan, 0, 1, 9, 9)}}
    (tmp_path / "codec_evaluation" / "report").mkdir(parents=True)
    facts = {"recording": {"codebook_size": math.nan, "num_codebooks": math.nan, "frame_rate": 12.5}}
    write_evaluation(table, {"facts": facts}, tmp_path / "codec_evaluation" / "codec_evaluation.json")
    (tmp_path / "codec_evaluation" / "report" / "index.html").write_text("codec")
    return tmp_path


def test_curves_are_those_that_were_logged(runs):
    """Guards against values that a resumed run has replaced, another metric, NaN, and blank charts of one point."""
    codec, lm = read_training(runs, runs / "report").curves
    assert (codec.name, lm.name) == ("Codec", "Language model")
    np.testing.assert_allclose(lm.lines["training"], [[1, 2, 3, 4], [8, 7, 6, 5]])
    np.testing.assert_allclose(lm.lines["held out"], [[1, 3], [8.5, 6.5]])
    assert list(codec.lines) == ["training"]
    np.testing.assert_allclose(codec.lines["training"], [[1, 2], [2, 1]])
    drawn = {line.get_label(): line.get_xydata().T for line in training_figure(lm).axes[0].lines}
    assert drawn.keys() == lm.lines.keys()
    np.testing.assert_allclose(drawn["training"], lm.lines["training"])


def test_the_later_value_counts_whatever_the_files_are_called(tmp_path):
    """Guards against the value of an interrupted run, where its file is read last: two of one second may be."""
    folder = tmp_path / "lm" / "tensorboard"
    log(folder, {"train/loss": {1: 8.0, 2: 7.0, 3: 9.0}})
    (first,) = folder.iterdir()
    log(folder, {"train/loss": {3: 6.0, 4: 5.0}})
    first.rename(first.with_name("events.out.tfevents.9999999999.host.1.1"))
    (lm,) = read_training(tmp_path, tmp_path / "report").curves
    np.testing.assert_allclose(lm.lines["training"], [[1, 2, 3, 4], [8, 7, 6, 5]])


def test_long_curves_are_averaged():
    """Guards against a page of megabytes, and against a curve that loses its ends or its mean."""
    steps, values = thinned([(step, step % 2) for step in range(10 * MAX_POINTS)])
    assert len(steps) == len(values) == MAX_POINTS
    np.testing.assert_allclose(values, 0.5)
    assert (steps[0], steps[-1]) == (4.5, 10 * MAX_POINTS - 5.5)


def test_an_evaluation_of_another_version_costs_only_its_table(runs):
    """Guards against a sweep of hours without a page, because a file beside it cannot be read."""
    path = runs / "codec_evaluation" / "codec_evaluation.json"
    stored = json.loads(path.read_text())
    assert read_training(runs, runs).codec_cells
    wer = stored["systems"]["recording"]["wer"]
    for systems in ({"recording": {"wer": {**wer, "unknown": 1}}}, {"recording": {"wer": {"value": 1}}}, None):
        path.write_text(json.dumps({**stored, "systems": systems}))
        found = read_training(runs, runs)
        assert found.codec_cells == [] and len(found.curves) == 2


def test_the_page_has_what_the_runs_have_and_no_empty_headings(runs, tmp_path_factory, monkeypatch):
    """Guards against a table of other numbers, links that lead nowhere, and headings over nothing."""
    monkeypatch.setattr(figures, "inline_svg", lambda figure, description: "")  # a second each
    results = tone_sweep(tmp_path_factory.mktemp("sweep")).results

    def page_of(folder):
        training = read_training(folder, folder / "report")
        report = ReportInput("t", results, [], frozenset(), "a\n1\n", "command", {}, training=training)
        return report_page(report)

    page = Page(page_of(runs))
    assert page.tables["codec-table"] == [["system", "recording"], ["Hz", "12.5"], ["WER %", "12.510.0 to 15.0"]]
    assert [link for link in page.links if not link.startswith(("#", "data:"))] == [
        "../codec_evaluation/report/index.html"
    ]
    assert "Language model" in page.text and "The codec" in page.text
    (runs / "lm" / "report").mkdir()
    (runs / "lm" / "report" / "training_speech.html").write_text("speech")
    assert "../lm/report/training_speech.html" in Page(page_of(runs)).links
    empty = page_of(tmp_path_factory.mktemp("nothing"))
    assert not {"codec-table", "codec"} & set(Page(empty).tables)
    for heading in ("<h2>The codec", "<h2>Training", "<h2>Listen", "<h2>Who chooses", 'href="#training"', "#listen"):
        assert heading not in empty, heading


def test_the_sentence_says_what_is_known_and_no_more():
    """Guards against invented numbers: a model of 0 parameters, 0 updates on 0 hours."""
    whole = TrainedFacts(6_214_400, 9000, 27.43, 25.0, 4096, 16000)
    assert trained_sentence(whole) == (
        "A language model of 6.21 million parameters, trained for 9,000 updates on 27.4 hours of speech, writes 25 "
        "codes per second out of 4,096, which a codec turns into sound at 16,000 Hz."
    )
    known = TrainedFacts(num_parameters=900, frame_rate=12.5)
    assert trained_sentence(known) == "A language model of 900 parameters writes 12.5 codes per second."
    assert trained_sentence(TrainedFacts(num_updates=5, frame_rate=50.0)) == (
        "A language model, trained for 5 updates, writes 50 codes per second."
    )
    assert trained_sentence(TrainedFacts(10)) == ""
