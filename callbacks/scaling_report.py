"""ScalingReport: writes the report page of a sweep, and logs its figures and audio."""

import logging
import shlex
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.inference_scaling import InferenceScaling
from callbacks.media import log_audio, log_figure
from callbacks.report_examples import gather_examples
from callbacks.trained_facts import trained_facts
from modules.api import Transcribes
from modules.batches import NamesPromptSets
from modules.evaluation.quoted_table import QuotedTable
from modules.report.examples import Example
from modules.report.figures import cost_figure, curve_figure, mel_figure
from modules.report.glossary import glossary
from modules.report.quoted_rows import QuotedRows, as_text, measured_rows
from modules.report.sweep_page import ReportInput, headlines, report_page
from modules.report.training_record import read_training, trained_sentence
from modules.search.analysis.results import SweepResults, write_curves

logger = logging.getLogger(__name__)


class ScalingReport(Callback):
    """Writes index.html into `report_folder` of the InferenceScaling callback after the test, and prints what the
    choice gained.

    The page is self-contained: audio players first, with mel spectrograms, then curves with intervals, tables, the
    training behind it, the evaluation card. The loggers get the figures and the audio.

    Args:
        title: The page's headline.
        num_examples: Number of prompts of each set with audio examples: those where the choice changed most.
        credits: Text files (licences, credits of the data) that the page quotes in full.
        quoted: Published rows to show next to the sweep's own, on the page and on the terminal.
        runs: The folder of the runs `codec`, `lm` and `codec_evaluation`, whose training curves and table the page
            shows as far as they exist; None = `folder` of InferenceScaling.

    Raises (all before a sample is drawn):
        ValueError: The trainer does not have exactly one InferenceScaling; a credits file does not exist; `quoted` does
            not match the sweep.
        FileNotFoundError: There is no file of quoted rows.
    """

    def __init__(
        self,
        title: str = "Inference-time scaling",
        num_examples: int = 3,
        credits: list[Path] | None = None,
        quoted: QuotedRows | None = None,
        runs: Path | None = None,
    ) -> None:
        if num_examples < 0:
            raise ValueError(f"Expected `num_examples` to be at least 0, but got {num_examples}.")
        self.title = title
        self.num_examples = num_examples
        self.credits = [Path(path) for path in credits or []]
        self.quoted = quoted
        self.runs = Path(runs) if runs else None
        self.page: Path | None = None  # set once it is written

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        scaling = _sweep_of(trainer)
        if self.quoted is not None:
            judges = [one.facts.name for one in [*scaling.judges, *scaling.final_judges]]
            data = getattr(trainer, "datamodule", None)
            names = data.prompt_set_names if isinstance(data, NamesPromptSets) else [scaling.name]
            self.quoted.check(names, judges)
        for path in self.credits:
            if not path.is_file():
                raise ValueError(f"Expected `credits` to name text files, but got {path}, which is not a file.")

    @torch.inference_mode()
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        scaling = _sweep_of(trainer)
        if not trainer.is_global_zero or scaling.results is None:
            return
        self.page = scaling.report_folder / "index.html"
        trained = trained_sentence(trained_facts(pl_module, scaling.codec, trainer.ckpt_path))
        page, examples, error_judges = self._page(scaling, scaling.results, trained)
        self.page.write_text(page, encoding="utf-8")
        self._log(trainer, scaling.results, examples, error_judges)
        if self.quoted is not None:
            table = self.quoted.read()
            print(f"\n{as_text(table, self._measured(table, scaling.results, error_judges))}\n", flush=True)
        for line in headlines(scaling.results.first_points, error_judges):
            print(line)
        print(f"report: {self.page.resolve().as_uri()} ({len(page.encode()) / 1e6:.1f} MB)", flush=True)

    def _page(
        self, scaling: InferenceScaling, results: SweepResults, trained: str = ""
    ) -> tuple[str, list[Example], frozenset[str]]:
        verifiers = {one.facts.name: one for one in [*scaling.selectors, *scaling.judges, *scaling.final_judges]}
        # By the contract of `hypotheses`, the score of a verifier with transcripts is 1 - error rate.
        error_judges = frozenset(name for name, one in verifiers.items() if isinstance(one, Transcribes))
        examples = gather_examples(results, scaling.codec, list(verifiers.values()), self.num_examples, error_judges)
        folder = scaling.report_folder
        curve_csv = folder / "curve.csv"
        write_curves(results.points, curve_csv)
        table = self.quoted.read() if self.quoted else None
        report = ReportInput(
            title=self.title,
            results=results,
            examples=examples,
            error_judges=error_judges,
            curve_csv=curve_csv.read_bytes().decode(),
            command=shlex.join(["python", *sys.orig_argv[1:]]),
            credits={path.name: path.read_text(encoding="utf-8", errors="replace") for path in self.credits},
            quoted=table,
            measured=self._measured(table, results, error_judges) if table else [],
            trained=trained,
            glossary=glossary(
                list(verifiers.values()), {one["name"]: one["roles"] for one in results.description["verifiers"]}
            ),
            training=read_training(self.runs or scaling.folder, folder),
        )
        return report_page(report), examples, error_judges

    def _measured(self, table: QuotedTable, results: SweepResults, error_judges: frozenset[str]) -> list[list[str]]:
        return measured_rows(table.headings, self.quoted.columns, results.points, error_judges)

    def _log(
        self, trainer: Trainer, results: SweepResults, examples: list[Example], error_judges: frozenset[str]
    ) -> None:
        step = trainer.global_step
        first = results.first_points
        selectors = [point.selector for point in first]
        for prompt_set, judge in dict.fromkeys((point.prompt_set, point.judge) for point in first):
            points = [point for point in first if (point.prompt_set, point.judge) == (prompt_set, judge)]
            figure = curve_figure(points, judge in error_judges, selectors)
            log_figure(trainer.loggers, f"curves/{prompt_set}/{judge}", figure, step)
            everything = [one for one in results.points if (one.prompt_set, one.judge) == (prompt_set, judge)]
            if any(one.flops > 0 for one in everything):
                figure = cost_figure(everything, "flops", judge in error_judges, selectors)
                log_figure(trainer.loggers, f"costs/{prompt_set}/{judge}", figure, step)
        for example in examples:
            name = f"{example.prompt_set}/{example.prompt.key}"
            heard = [*example.clips, *example.more]
            clips = [(", ".join(clip.labels), clip.audio) for clip in heard if clip.audio.samples_T.numel()]
            for label, audio in clips:
                log_audio(trainer.loggers, f"{name}/{label}", audio, step)
            if clips:
                log_figure(trainer.loggers, f"mel/{name}", mel_figure(clips), step)
        for one in trainer.loggers:
            one.save()


def _sweep_of(trainer: Trainer) -> InferenceScaling:
    sweeps = [one for one in trainer.callbacks if isinstance(one, InferenceScaling)]
    if len(sweeps) != 1:
        raise ValueError(f"Expected one InferenceScaling, at `sweep` or in `trainer.callbacks`, but got {len(sweeps)}.")
    return sweeps[0]
