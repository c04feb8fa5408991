"""callbacks/scaling_report.py and what it is made of, on a toy codec whose codes are tones."""

import base64
import csv
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from callbacks.figures import curve_figure, inline_svg, rendered_pixels
from callbacks.inference_scaling import InferenceScaling
from callbacks.report_page import audio_bytes, judged_curves
from callbacks.scaling_report import ScalingReport
from modules.api import Audio, Candidate, Cost, Prompt, SamplingSettings, Trace
from modules.search.best_of_n import BestOfN
from modules.search.curves import CurveCalculator
from modules.search.estimators import CurvePoint
from modules.search.results import SweepResults
from modules.search.sweep import Panel, chosen_index

RATE, HOP = 16000, 320


class ToneCodec:
    """Code k is 20 ms of a tone of 200 + 50 k Hz; encoding picks the loudest bin, so that tones survive."""

    sample_rate, frame_rate, codebook_size, fingerprint = RATE, RATE / HOP, 40, "tones"

    def encode(self, audio_BT, num_samples_B):
        frames_BSH = audio_BT[:, : audio_BT.shape[1] // HOP * HOP].unflatten(1, (-1, HOP))
        loudest_BS = torch.fft.rfft(frames_BSH).abs()[..., 4:44].argmax(-1)
        return loudest_BS, num_samples_B // HOP

    def decode(self, codes_BS, num_codes_B, start_frame=0):
        phase_BT = (2 * math.pi * (200 + 50 * codes_BS.double()) / RATE).repeat_interleave(HOP, 1).cumsum(1)
        return (0.4 * phase_BT.sin()).float()

    def decode_flops(self, num_codes):
        return 1000.0 * num_codes


class ToneVerifier:
    """A verifier that compares something about a candidate with the prompt."""

    worst_score, needs_reference, judges_partial = 0.0, False, True

    def __init__(self, name, rule):
        self.name, self.model_hash, self.rule, self.settings = name, f"hash of {name}", rule, {"normaliser": "tones"}

    def score(self, prompt, candidates):
        return torch.tensor([self.rule(prompt, candidate) for candidate in candidates], dtype=torch.float64)

    def flops(self, seconds):
        return seconds


class WritingVerifier(ToneVerifier):
    def hypotheses(self, prompt, candidates):
        return [f"<tone> {int(one.codes_S[0])} & more" if one.num_codes else "" for one in candidates]


def tone_sweep(folder):
    """An InferenceScaling that has just ended: 3 prompts x 4 candidates, one runaway, one without codes."""
    generator = np.random.default_rng(0)
    judge = WritingVerifier("listener", lambda prompt, one: 1 - abs(int(one.codes_S[0]) - len(prompt.text)) / 40)
    close = ToneVerifier("closeness", lambda prompt, one: -abs(int(one.codes_S[0]) - len(prompt.text)) + one.seed % 3)
    short = ToneVerifier("likelihood", lambda prompt, one: one.log_probability)
    codec, traces, hypotheses = ToneCodec(), [], {}
    for index in range(3):
        reference_T = codec.decode(torch.full((1, 50), 5 + index), torch.tensor([50]))[0]
        prompt = Prompt(f"prompt{index}", f"say <b>{index}</b>", speaker="tone", reference=Audio(reference_T, RATE))
        candidates = []
        for number in range(4):
            codes_S = torch.full((30 + 5 * number,), int(generator.integers(40)))
            one = Candidate(
                prompt.key, number, number, codes_S, -float(number), number != 3, cost=Cost(1e9, 1e6, 1e7, 0.5)
            )
            one.scores = {who.name: float(who.score(prompt, [one])) for who in (judge, close, short)}
            candidates.append(one)
            hypotheses[prompt.key, number, "listener"] = judge.hypotheses(prompt, [one])[0]
        traces.append(Trace(prompt, candidates))
    traces[2].candidates[0] = replace(traces[2].candidates[0], codes_S=torch.zeros(0, dtype=torch.int64))
    traces[1].candidates[1].scores["listener"] = math.nan
    panel = Panel([close, short], [judge])
    points = CurveCalculator("tones", "best_of_n", traces, panel, codec, seed=0, num_resamples=200).points()
    chosen = {
        one.name: {trace.prompt.key: chosen_index(trace.candidates, one.name) for trace in traces}
        for one in panel.selectors
    }
    verifiers = [
        {"name": one.name, "roles": panel.roles(one.name), "model_hash": one.model_hash, "settings": one.settings}
        for one in panel.everyone
    ]
    description = {"seed": 17, "num_candidates": 4, "versions": {"torch": "2.x"}, "verifiers": verifiers}
    scaling = InferenceScaling(codec, BestOfN(4, 50), SamplingSettings(), [close, short], [judge], folder)
    scaling.results = SweepResults({"tones": traces}, points, {"tones": chosen}, hypotheses, description)
    return scaling


class Page(HTMLParser):
    """What a browser would load and show."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.links, self.open_tags, self.words, self.tables = [], [], [], [], {}
        self.audio, self.cell, self.row, self.table = [], None, None, None
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.open_tags.append(tag)
        self.sources += [attributes[name] for name in ("src", "srcset", "poster", "data") if name in attributes]
        self.links += [attributes["href"]] if "href" in attributes else []
        if tag == "audio":
            self.audio.append(attributes["src"])
        if tag == "table":
            self.table = self.tables.setdefault(attributes.get("id", len(self.tables)), [])
        if tag == "tr":
            self.row = []
            self.table.append(self.row)
        if tag in ("td", "th"):
            self.row.append("")
            self.cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = False

    def handle_data(self, data):
        if "style" not in self.open_tags[-1:]:
            self.words.append(data)
        if self.cell:
            self.row[-1] += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The sweep, the page's text, the folder; TensorBoard in folder/tensorboard."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    (folder / "LICENSE.txt").write_text("CC BY-SA 3.0 <https://example.org/licence>", encoding="utf-8")
    scaling = tone_sweep(folder)
    report = ScalingReport("Tones", num_examples=3, credits=[folder / "LICENSE.txt"])
    logger = TensorBoardLogger(folder, name="tensorboard", version="")
    trainer = SimpleNamespace(callbacks=[scaling, report], is_global_zero=True, loggers=[logger], global_step=0)
    report.on_test_start(trainer, None)
    report.on_test_end(trainer, None)
    return SimpleNamespace(
        scaling=scaling, folder=folder, text=(folder / "report" / "index.html").read_text(encoding="utf-8")
    )


def test_page_asks_nothing_of_the_network_and_escapes_what_it_quotes(written):
    """Guards against a page that works on the author's machine only, and against prompts that break the page."""
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
    """Guards against a table drawn from other numbers than the file beside it (rounding, order, a missing line)."""
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
            if name in ("score", "low", "high", "score_judged_only", "flops"):
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


def test_headline_tells_one_sample_and_the_best_selector_not_the_oracle(written):
    """Guards against the classic mistake of such reports: the judge's own choice sold as the result."""
    points = {(point.selector, point.n): point for point in written.scaling.results.points}
    best = max(("closeness", "likelihood"), key=lambda name: points[name, 4].score)
    text = Page(written.text).text
    headline = text[: text.index("Score against the number")]
    assert f"One sample: {100 * (1 - points['random', 1].score):.1f} %" in headline
    assert f"keeping the one that {best} prefers" in headline
    assert f"{100 * (1 - points[best, 4].score):.1f} %" in headline
    assert "a bound, not a result" in headline


def test_players_give_back_the_audio_that_was_scored(written):
    """Guards against players of another candidate than the label says, and against a lossy or resampled copy."""
    results, codec = written.scaling.results, ToneCodec()
    players = [base64.b64decode(source.split(",")[1]) for source in Page(written.text).audio]
    expected = []
    for trace in results.prompt_sets["tones"]:
        reference_T = trace.prompt.reference.samples_T
        expected += [
            reference_T,
            codec.decode(*codec.encode(reference_T[None], torch.tensor([reference_T.numel()])))[0],
        ]
        places = dict.fromkeys(
            [0, *(results.chosen["tones"][name][trace.prompt.key] for name in ("closeness", "likelihood"))]
        )
        for candidate in (trace.candidates[place] for place in places):
            if candidate.num_codes:
                expected.append(codec.decode(candidate.codes_S[None], torch.tensor([candidate.num_codes]))[0])
    assert len(players) == len(expected)
    for content, audio_T in zip(players, expected, strict=True):
        samples, rate = soundfile.read(io.BytesIO(content))
        assert rate == RATE
        np.testing.assert_allclose(samples, audio_T.numpy(), atol=2**-15)


def test_page_names_the_chosen_the_counts_and_what_was_run(written):
    """Guards against a report that cannot be reproduced or that hides what was not judged."""
    page = Page(written.text)
    for words in (
        "best of 4 by closeness", "first sample", "codec resynthesis", "recording", "listener heard:", "never ended",
        "it ended at once", "hash of listene", "normaliser tones", "num candidates 4", "seed 17", "CC BY-SA 3.0",
        "pytest",
    ):  # fmt: skip
        assert words in page.text, words
    counts = next(table for table in page.tables.values() if "never ended" in table[0])
    # 12 samples, of which 3 never ended and one of the others could not be judged.
    assert [cell.strip() for cell in counts[1][2:5]] == ["12", "3", "1"]


def test_loggers_get_the_figures_and_the_audio(written):
    """Guards against a callback that writes the page and forgets TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(written.folder / "tensorboard"), size_guidance={"images": 0, "audio": 0})
    events.Reload()
    assert "curves/tones/listener" in events.Tags()["images"]
    assert "mel/tones/prompt0" in events.Tags()["images"]
    assert "tones/prompt0/recording" in events.Tags()["audio"]
    logged = events.Audio("tones/prompt1/recording")[0]
    samples, rate = soundfile.read(io.BytesIO(logged.encoded_audio_string))
    reference_T = written.scaling.results.prompt_sets["tones"][1].prompt.reference.samples_T
    assert rate == RATE
    np.testing.assert_allclose(samples, reference_T.numpy(), atol=2**-14)


def test_long_examples_are_stored_as_vorbis_and_stay_recognisable():
    """Guards against a page of hundreds of MB, and against libsndfile's crash on long Vorbis writes."""
    time_T = torch.arange(90 * RATE) / RATE
    tone = Audio(0.4 * torch.sin(2 * math.pi * 440 * time_T), RATE)
    content = audio_bytes(tone, "ogg")
    assert len(content) < len(audio_bytes(tone, "flac")) / 3
    samples, rate = soundfile.read(io.BytesIO(content))
    assert (rate, samples.size) == (RATE, tone.samples_T.numel())
    spectrum = np.abs(np.fft.rfft(samples[RATE : 2 * RATE]))
    assert spectrum.argmax() == 440
    assert np.corrcoef(samples, tone.samples_T.numpy())[0, 1] > 0.99


def curve(selector, scores):
    return [
        CurvePoint(
            "best_of_n", selector, "listener", 2**power, score, score - 0.1, score + 0.1, 9, 0, 0, score, "tones"
        )
        for power, score in enumerate(scores)
    ]


def test_figure_holds_the_numbers_and_names_the_oracle():
    """Guards against an axis that is not logarithmic, an error drawn upside down, and an oracle without its label."""
    points = [
        *curve("random", [0.5] * 4),
        *curve("a", [0.5, 0.6, 0.7, 0.8]),
        *curve("oracle (listener)", [0.5, 0.8, 0.9, 1]),
    ]
    panel = curve_figure(points, as_error=True).axes[0]
    lines = {line.get_label().replace("\n", " "): line for line in panel.lines}
    assert set(lines) == {"random choice", "best by a", "oracle (selected by the judge)"}
    np.testing.assert_allclose(lines["best by a"].get_ydata(), [0.5, 0.4, 0.3, 0.2])
    np.testing.assert_array_equal(lines["best by a"].get_xdata(), [1, 2, 4, 8])
    assert lines["oracle (selected by the judge)"].get_linestyle() == "--"
    assert panel.get_xscale() == "log"
    bands = [band.get_datalim(panel.transData).bounds for band in panel.collections]
    assert len(bands) == 2  # random and a: the oracle is a bound, not an estimate to lean on
    svg = inline_svg(curve_figure(points), 'a "quoted" name')
    assert "http" not in svg and "currentColor" in svg
    assert svg == inline_svg(curve_figure(points), 'a "quoted" name')


def test_figure_ink_lies_inside_the_picture():
    """Guards against long selector names cut off at the edge: the outermost pixels are empty."""
    names = ["transcript of a recogniser with a very long name", "b"]
    points = [point for name in names for point in curve(name, [0.1, 0.2, 0.4])]
    pixels = rendered_pixels(curve_figure(points))
    edges = np.concatenate([pixels[:2].ravel(), pixels[-2:].ravel(), pixels[:, :2].ravel(), pixels[:, -2:].ravel()])
    assert (edges == 255).all()
    assert Image.fromarray(pixels).convert("L").getextrema()[0] < 100


def test_judge_without_independent_selector_has_no_best():
    """Guards against the headline falling back to random or oracle when nothing else is there."""
    (alone,) = judged_curves([*curve("random", [0.5, 0.5]), *curve("oracle (listener)", [0.5, 0.7])], frozenset())
    assert alone.best is None
    assert alone.oracle.score == 0.7
    (single,) = judged_curves(curve("random", [0.5]), frozenset())
    assert single.best is None and single.oracle is None


def test_refuses_before_the_sweep_what_it_could_not_finish(tmp_path):
    """Guards against losing the report after hours of sampling for a wrong path."""
    scaling = tone_sweep(tmp_path)
    report = ScalingReport(credits=[tmp_path / "missing.txt"])
    with pytest.raises(ValueError, match=r"Expected `credits`.*missing\.txt"):
        report.on_test_start(SimpleNamespace(callbacks=[scaling, report]), None)
    with pytest.raises(ValueError, match="Expected one InferenceScaling"):
        ScalingReport().on_test_start(SimpleNamespace(callbacks=[report]), None)
