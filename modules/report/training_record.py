"""What a sweep's page says about the training behind it: a sentence, the codec's table, and the training curves."""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from modules.evaluation.table import read_evaluation, table_cells
from modules.report.figures import PALETTE, both_widths, finish_axes, page_figure

logger = logging.getLogger(__name__)

MAX_POINTS = 200  # of a curve on the page
# Folder of a run, its name on the page, and the metric whose curves are shown: train/METRIC and val/METRIC.
SHOWN = (("codec", "Codec", "mel", "mel distance"), ("lm", "Language model", "loss", "loss in nats per token"))
KINDS = {"train": "training", "val": "held out"}


@dataclass(frozen=True)
class TrainedFacts:
    """What is known of the model under test; None or 0: unknown."""

    num_parameters: int = 0
    num_updates: int = 0
    hours: float = 0.0  # of speech in the training data
    frame_rate: float = 0.0
    codebook_size: int = 0
    sample_rate: int = 0


@dataclass(frozen=True)
class TrainingCurve:
    """Steps and values by kind of data (KINDS)."""

    name: str
    unit: str
    lines: dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class TrainingRecord:
    """What stands in the folder of the runs; empty where there is nothing. Pages are relative links."""

    curves: list[TrainingCurve] = field(default_factory=list)
    codec_cells: list[list[str]] = field(default_factory=list)
    codec_page: str = ""
    speech_page: str = ""


def trained_sentence(facts: TrainedFacts) -> str:
    """One sentence; unknown facts are left out, and without the codec's there is none."""
    if not facts.frame_rate:
        return ""
    model = "A language model"
    if facts.num_parameters:
        model += f" of {readable_count(facts.num_parameters)} parameters"
    if facts.num_updates:
        model += f", trained for {facts.num_updates:,} updates"
        model += f" on {readable_hours(facts.hours)} of speech" if facts.hours else ""
        model += ","
    codes = f"{facts.frame_rate:g} codes per second" + f" out of {facts.codebook_size:,}" * bool(facts.codebook_size)
    sound = f", which a codec turns into sound at {facts.sample_rate:,} Hz" if facts.sample_rate else ""
    return f"{model} writes {codes}{sound}."


def readable_count(number: int) -> str:
    for size, name in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:,}"


def readable_hours(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"


def read_training(runs: Path, folder: Path) -> TrainingRecord:
    """Read `runs`/codec, `runs`/lm and `runs`/codec_evaluation, as far as they exist, for a page in `folder`."""
    evaluation = runs / "codec_evaluation" / "codec_evaluation.json"
    return TrainingRecord(
        curves=[one for shown in SHOWN if (one := read_curve(runs / shown[0] / "tensorboard", *shown[1:])) is not None],
        codec_cells=read_codec_table(evaluation) if evaluation.is_file() else [],
        codec_page=_link(runs / "codec_evaluation" / "report" / "index.html", folder),
        speech_page=_link(runs / "lm" / "report" / "training_speech.html", folder),
    )


def read_codec_table(path: Path) -> list[list[str]]:
    """The cells of a codec's evaluation, a row for each measure, so that a few systems fit a screen; none, with a
    warning, for a file of another version."""
    try:
        return [list(row) for row in zip(*table_cells(*read_evaluation(path), all_columns=False), strict=True)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        logger.warning("The page has no table of the codec: %s cannot be read (%r)", path, error)
        return []


def _link(target: Path, folder: Path) -> str:
    return Path(os.path.relpath(target, folder)).as_posix() if target.is_file() else ""


def read_curve(folder: Path, name: str, metric: str, unit: str) -> TrainingCurve | None:
    """The curves of TensorBoard's files in `folder`; None if none has two finite values. Of a step that was logged
    twice, by a resumed run, the later value counts."""
    if not folder.is_dir():
        return None
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    keep = {"images": 1, "audio": 1, "histograms": 1, "tensors": 1, "scalars": 0}  # 0: all
    events = EventAccumulator(str(folder), size_guidance=keep)
    events.Reload()
    tags, lines = events.Tags()["scalars"], {}
    for prefix, kind in KINDS.items():
        tag = f"{prefix}/{metric}"
        # By time: files of one second are read in the order of a number in their names, 10 before 9.
        values = sorted(events.Scalars(tag), key=lambda one: one.wall_time) if tag in tags else []
        logged = {one.step: one.value for one in values}
        points = sorted((step, value) for step, value in logged.items() if math.isfinite(value))
        if len(points) > 1:
            lines[kind] = thinned(points)
    return TrainingCurve(name, unit, lines) if lines else None


def thinned(points: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, as means of neighbours where there are more than MAX_POINTS."""
    parts = np.array_split(np.array(points, dtype=float), min(len(points), MAX_POINTS))
    steps, values = np.array([part.mean(axis=0) for part in parts]).T
    return steps, values


def training_figure(curve: TrainingCurve, narrow: bool = False) -> Figure:
    figure, panel = page_figure(narrow, len(curve.lines))
    for colour, (kind, (steps, values)) in zip(PALETTE, curve.lines.items(), strict=False):
        style = {"marker": "o", "markersize": 3.5} if len(steps) <= MAX_POINTS // 10 else {}
        panel.plot(steps, values, color=colour, linewidth=1.8, label=kind, **style)
    panel.set_xlabel("step")
    panel.set_ylabel(curve.unit)
    finish_axes(panel, narrow)
    return figure


def training_picture(curve: TrainingCurve) -> Markup:
    """The curves as inline SVGs in the page's text colour."""
    return both_widths(partial(training_figure, curve), f"{curve.name}: {curve.unit} over the steps of the training")
