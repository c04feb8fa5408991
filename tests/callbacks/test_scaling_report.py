"""callbacks/scaling_report.py and its parts, on a toy codec whose codes are tones."""

import base64
import csv
import io
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from callbacks.inference_scaling import InferenceScaling
from callbacks.run_layout import RunLayout
from callbacks.scaling_report import ScalingReport
from modules.api import Audio, SamplingSettings
from modules.audio import encoded
from modules.batches import PromptBatch
from modules.report.sweep_page import headlines, judged_curves
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.panel import chosen_index
from tests.conftest import REPOSITORY
from tests.toys.report_toys import RATE, Page, ToneCodec, curve, tone_sweep
from tests.toys.search_toys import (
    CODEBOOK_SIZE,
    ToyCodec,
    ToyFormat,
    ToySampler,
    ToyVerifier,
    last_level_or_nan,
    mean_level,
    toy_prompts,
)
from tests.toys.search_toys import WritingVerifier as ToysWriter


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The sweep, the page's text, the folder; TensorBoard in folder/tensorboard."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    (folder / "LICENSE.txt").write_text("CC BY-SA 3.0 <https://example.org/licence>", encoding="utf-8")
    scaling = tone_sweep(folder)
    report = ScalingReport("Tones", num_examples=3, credits=[folder / "LICENSE.txt"])
    logger = TensorBoardLogger(folder, name="tensorboard", version="")
    trainer = SimpleNamespace(
        callbacks=[scaling, report], is_global_zero=True, loggers=[logger], global_step=0, ckpt_path=None
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.orig_argv", ["python3.11", "run.py", "test", "--config", "a sweep.yaml"])
        report.on_test_start(trainer, None)
        report.on_test_end(trainer, torch.nn.Linear(3, 4))
    return SimpleNamespace(
        scaling=scaling, folder=folder, text=(folder / "report" / "index.html").read_text(encoding="utf-8")
    )


def test_page_needs_no_network_and_escapes_quoted_texts(written):
    """Guards against a page that only works on the author's machine, and against prompts that break the page."""
    page = Page(written.text)
    assert page.sources
    assert all(source.startswith("data:") for source in page.sources)
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert not re.search(r"url\(\s*['\"]?(?!#)|@import|<script|<link", written.text)
    assert "say <b>0</b>" in page.text
    assert "<https://example.org/licence>" in page.text
    assert "& more" in page.text
    assert len(written.text.encode()) < 3e6


def test_table_equals_the_csv(written):
    """Guards against a table that differs from the CSV file (rounding, order, a missing line)."""
    page = Page(written.text)
    on_disk = (written.folder / "report" / "curve.csv").read_bytes()
    embedded = next(link for link in page.links if link.startswith("data:text/csv"))
    assert base64.b64decode(embedded.split(",")[1]) == on_disk
    rows = list(csv.DictReader(io.StringIO(on_disk.decode())))
    points = written.scaling.results.points
    assert [float(row["score"]) for row in rows] == [point.score for point in points]
    header, *cells = page.tables["curve-csv"]
    assert header == list(rows[0])
    assert len(cells) == len(rows)
    for shown, row in zip(cells, rows, strict=True):
        for name, cell in zip(header, shown, strict=True):
            if isinstance(getattr(points[0], name), float):
                assert float(cell) == pytest.approx(float(row[name]), rel=1e-4, nan_ok=True)
            else:
                assert cell == row[name]
    pivot = next(table for table in page.tables.values() if table[0][0] == "chosen by")
    for name, *shown in pivot[1:]:
        curve = [
            point for point in points if name in (point.selector, "random choice", "oracle (selected by the judge)")
        ]
        if name == "random choice":
            curve = [point for point in points if point.selector == "random"]
        elif name.startswith("oracle"):
            curve = [point for point in points if point.selector.startswith("oracle")]
        for cell, point in zip(shown, sorted(curve, key=lambda point: point.n), strict=True):
            error, low, high = (float(number) for number in re.findall(r"-?\d+\.\d", cell))
            assert error == pytest.approx(100 * (1 - point.score), abs=0.051)
            assert low <= error <= high


def test_headline_has_one_sample_and_the_best_selector_not_the_oracle(written):
    """Guards against a common mistake in such reports: presenting the judge's own selection as the result."""
    points = {(point.selector, point.n): point for point in written.scaling.results.points}
    best = max(("closeness", "likelihood"), key=lambda name: points[name, 4].score)
    text = Page(written.text).text
    headline = text[: text.index("Score against the number")]
    assert f"One sample: {100 * (1 - points['random', 1].score):.1f} %" in headline
    assert f"Best of 4, selected by {best}:" in headline
    assert f"{100 * (1 - points[best, 4].score):.1f} %" in headline
    assert "a bound, not a result" in headline


def test_players_give_back_the_audio_that_was_scored(written):
    """Guards against players with another candidate's audio, a lossy or resampled copy, two players of one sample, and
    the recording before the samples."""
    results, codec = written.scaling.results, ToneCodec()
    players = [base64.b64decode(source.split(",")[1]) for source in Page(written.text).audio]
    best = max(("closeness", "likelihood"), key=lambda name: score_at(results, name, 4))
    others = [name for name in ("closeness", "likelihood") if name != best]
    expected = []
    for trace in by_change(results.traces("tones"), best):
        chosen = [chosen_index(trace.candidates, name) for name in (best, *others)]
        samples = {
            place: codec.decode(one.codes_S[None], torch.tensor([one.num_codes]))[0]
            for place in dict.fromkeys([0, *chosen])
            if (one := trace.candidates[place]).num_codes
        }
        reference_T = trace.prompt.reference.samples_T
        coded = codec.encode(reference_T[None], torch.tensor([reference_T.numel()]))
        shown = [samples[place] for place in dict.fromkeys([0, chosen[0]]) if place in samples]
        more = [sample for place, sample in samples.items() if place not in (0, chosen[0])]
        expected += [*shown, reference_T, *more, codec.decode(*coded)[0]]
    assert len(players) == len(expected)
    for content, audio_T in zip(players, expected, strict=True):
        samples, rate = soundfile.read(io.BytesIO(content))
        assert rate == RATE
        np.testing.assert_allclose(samples, audio_T.numpy(), atol=2**-15)


def score_at(results, selector, n):
    return next(point.score for point in results.points if (point.selector, point.n) == (selector, n))


def by_change(traces, selector):
    """Sorted naively: the largest change of the listener's score first, then another sample, then the key."""

    def heard(candidate):
        score = candidate.scores["listener"]
        return score if candidate.stopped and score == score else 0.0

    def order(trace):
        place = chosen_index(trace.candidates, selector)
        return -abs(heard(trace.candidates[place]) - heard(trace.candidates[0])), place == 0, trace.prompt.key

    return sorted(traces, key=order)


def test_page_names_the_selected_the_counts_and_the_run(written):
    """Guards against a report that cannot be reproduced or that hides unscored candidates."""
    page = Page(written.text)
    for words in (
        "best of 4 by closeness", "first sample", "codec resynthesis", "recording", "never ended",
        "generation ended immediately", "hash of listene", "normaliser tones", "num candidates 4", "seed 17",
        "listener transcript:", "CC BY-SA 3.0", "python run.py test --config 'a sweep.yaml'",
    ):  # fmt: skip
        assert words in page.text, words
    counts = next(table for table in page.tables.values() if "never ended" in table[0])
    # 12 samples, of which 3 never ended and one of the others could not be scored.
    assert [cell.strip() for cell in counts[1][2:5]] == ["12", "3", "1"]


def test_counts_of_samples_and_failures_cover_the_same_seeds(tmp_path):
    """Guards against more runaways than samples: those of every seed compared with the samples of the first."""
    scaling = InferenceScaling(
        codec=ToyCodec(), algorithm=BestOfN(4, 12), sampling=SamplingSettings(), more_seeds=[1, 2],
        selectors=[ToyVerifier("level", mean_level)], judges=[ToysWriter("judge", last_level_or_nan)],
        final_judges=[ToyVerifier("expensive", lambda samples_T: float(samples_T.numel()))],
        folder=tmp_path, num_resamples=50,
    )  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", logger=False, callbacks=[scaling, ScalingReport(num_examples=1)],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    prompts = torch.utils.data.DataLoader(toy_prompts(3), batch_size=2, collate_fn=lambda rows: PromptBatch(list(rows)))
    trainer.test(ToyModule(), prompts, verbose=False)
    page = Page((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))
    counts = next(table for table in page.tables.values() if "never ended" in table[0])
    candidates = [
        candidate for one in scaling.results.swept for candidate in one.trace.candidates
    ]  # fmt: skip
    assert len(candidates) == 3 * 3 * 4
    for row, name in zip(counts[1:], ("judge", "expensive"), strict=True):
        asked = [one for one in candidates if name in one.scores]
        unjudged = [one for one in asked if one.stopped and math.isnan(one.scores[name])]
        expected = [len(asked), sum(not one.stopped for one in asked), len(unjudged)]
        assert [int(cell) for cell in row[2:5]] == expected and min(expected[:2]) > 0


def test_loggers_get_the_figures_and_the_audio(written):
    """Guards against a callback that writes the page but nothing to TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(written.folder / "tensorboard"), size_guidance={"images": 0, "audio": 0})
    events.Reload()
    assert "curves/tones/listener" in events.Tags()["images"]
    assert "costs/tones/listener" in events.Tags()["images"]
    assert "mel/tones/prompt0" in events.Tags()["images"]
    assert "tones/prompt0/recording" in events.Tags()["audio"]
    logged = events.Audio("tones/prompt1/recording")[0]
    samples, rate = soundfile.read(io.BytesIO(logged.encoded_audio_string))
    reference_T = written.scaling.results.traces("tones")[1].prompt.reference.samples_T
    assert rate == RATE
    np.testing.assert_allclose(samples, reference_T.numpy(), atol=2**-14)


def test_long_examples_are_stored_as_vorbis_and_stay_recognisable():
    """Guards against a page of hundreds of MB, and against libsndfile's crash on long Vorbis writes."""
    time_T = torch.arange(90 * RATE) / RATE
    tone = Audio(0.4 * torch.sin(2 * math.pi * 440 * time_T), RATE)
    content = encoded(tone, "ogg")
    assert len(content) < len(encoded(tone, "flac")) / 3
    samples, rate = soundfile.read(io.BytesIO(content))
    assert (rate, samples.size) == (RATE, tone.samples_T.numel())
    spectrum = np.abs(np.fft.rfft(samples[RATE : 2 * RATE]))
    assert spectrum.argmax() == 440
    assert np.corrcoef(samples, tone.samples_T.numpy())[0, 1] > 0.99


class ToyModule(LightningModule):
    model_hash, codec_fingerprint = "toy model", ""
    prompt_format = ToyFormat(CODEBOOK_SIZE)

    def sampler(self, settings, engine=None):
        return ToySampler()

    def test_step(self, batch, batch_idx):
        return None

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch


def test_trainer_test_writes_a_page_of_the_sweep(tmp_path, capsys):
    """Guards against hooks that run before the sweep has its results, and against a report of stale results."""
    scaling = InferenceScaling(
        codec=ToyCodec(), algorithm=BestOfN(4, 12), sampling=SamplingSettings(),
        selectors=[ToyVerifier("level", mean_level)], judges=[ToysWriter("judge", last_level_or_nan)],
        folder=tmp_path, num_resamples=100,
    )  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", logger=CSVLogger(tmp_path),
        callbacks=[ScalingReport(num_examples=1), scaling, RunLayout(tmp_path)],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    prompts = torch.utils.data.DataLoader(toy_prompts(3), batch_size=2, collate_fn=lambda rows: PromptBatch(list(rows)))
    trainer.test(ToyModule(), prompts, verbose=False)
    page = Page((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))
    rows = list(csv.DictReader((tmp_path / "report" / "curve.csv").open()))
    assert len(page.tables["curve-csv"]) == 1 + len(rows)
    assert page.text.count("best of 4 by level") == 1
    printed = capsys.readouterr().out
    assert printed.count((tmp_path / "report" / "index.html").as_uri()) == 2  # by the report and by the layout
    assert printed.count(f"test ended: {tmp_path}/\n  candidates/") == 1
    before = (tmp_path / "report" / "index.html").read_bytes()
    scaling.report_folder = tmp_path / "second"  # of another stage, with the same candidates
    trainer.test(ToyModule(), prompts, verbose=False)
    assert (tmp_path / "report" / "index.html").read_bytes() == before
    assert {"index.html", "curve.csv", "summary.json"} <= {one.name for one in (tmp_path / "second").iterdir()}


SWEEPS = [one for one in sorted((REPOSITORY / "configs").rglob("*.yaml")) if "InferenceScaling" in one.read_text()]


@pytest.mark.parametrize("config", SWEEPS, ids=lambda one: one.stem)
def test_a_sweep_writes_its_page_into_its_stage(config):
    """Guards against `--stage.folder` that replaces the report of another stage, and then misses its own page."""
    settings = yaml.safe_load(config.read_text())
    if "${stage.folder}/curve.csv" in settings["stage"]["outputs"]:
        assert settings["sweep"]["init_args"]["report_folder"] == "${stage.folder}"


def test_a_headline_is_printed_for_each_prompt_set():
    """Guards against scores of a recogniser printed as errors or the reverse, and a headline without a choice."""
    points = [*curve("random", [0.5, 0.5]), *curve("chooser", [0.5, 0.75]), *curve("oracle (listener)", [0.5, 0.9])]
    said = "tones, {} by listener: one sample {}, best of 2 by chooser {}"
    assert headlines(points, frozenset({"listener"})) == [said.format("error", "50.0 %", "25.0 %")]
    assert headlines(points, frozenset()) == [said.format("score", "0.500", "0.750")]
    assert headlines(curve("random", [0.5]), frozenset()) == []


def test_judge_without_independent_selector_has_no_best():
    """Guards against a headline that falls back to random or oracle if there is no other selector."""
    (alone,) = judged_curves([*curve("random", [0.5, 0.5]), *curve("oracle (listener)", [0.5, 0.7])], frozenset())
    assert alone.best is None
    assert alone.oracle.score == 0.7
    (single,) = judged_curves(curve("random", [0.5]), frozenset())
    assert single.best is None and single.oracle is None


def test_wrong_settings_are_refused_before_the_sweep(tmp_path):
    """Guards against losing the report after hours of sampling for a wrong path."""
    scaling = tone_sweep(tmp_path)
    report = ScalingReport(credits=[tmp_path / "missing.txt"])
    with pytest.raises(ValueError, match=r"Expected `credits`.*missing\.txt"):
        report.on_test_start(SimpleNamespace(callbacks=[scaling, report]), None)
    with pytest.raises(ValueError, match="Expected one InferenceScaling"):
        ScalingReport().on_test_start(SimpleNamespace(callbacks=[report]), None)
