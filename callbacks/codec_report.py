"""CodecReport: the page of an evaluation of codecs, to look at and to listen to, and its pictures for the loggers."""

import shlex
import sys
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.codec_evaluation import CodecEvaluation
from callbacks.codec_page import codec_page, finite
from callbacks.figures import mel_figure
from callbacks.media import log_figure


class CodecReport(Callback):
    """Writes `FOLDER/report/index.html` (FOLDER is that of the CodecEvaluation callback) when the test has ended.

    The page holds everything: the table, quoted rows, players, mel pictures, what was run. Loggers get the pictures.

    Args:
        title: The page's headline.
        credits: Text files (licences, credits of the data) that the page quotes whole, since it holds recordings.

    Raises:
        ValueError: The trainer has not exactly one CodecEvaluation; a credits file does not exist. Before any work.
    """

    def __init__(self, title: str = "Codecs, measured", credits: list[Path] | None = None) -> None:
        self.title = title
        self.credits = [Path(path) for path in credits or []]
        self.page: Path | None = None  # once it is written

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _evaluation_of(trainer)
        for path in self.credits:
            if not path.is_file():
                raise ValueError(f"Expected `credits` to name text files, but got {path}, which is not a file.")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        evaluation = _evaluation_of(trainer)
        results = evaluation.results
        if not trainer.is_global_zero or results is None:
            return
        credits = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in self.credits}
        page = codec_page(results, self.title, shlex.join(["python", *sys.orig_argv[1:]]), credits)
        self.page = evaluation.folder / "report" / "index.html"
        self.page.parent.mkdir(parents=True, exist_ok=True)
        self.page.write_text(page, encoding="utf-8")
        for utterance, audios in results.examples:
            figure = mel_figure([(system, finite(audio)) for system, audio in audios.items()])
            log_figure(trainer.loggers, f"mel/{utterance.key}", figure, trainer.global_step)
        for one in trainer.loggers:
            one.save()
        print(f"report: {self.page.resolve().as_uri()} ({len(page.encode()) / 1e6:.1f} MB)", flush=True)


def _evaluation_of(trainer: Trainer) -> CodecEvaluation:
    found = [one for one in trainer.callbacks if isinstance(one, CodecEvaluation)]
    if len(found) != 1:
        raise ValueError(f"Expected one CodecEvaluation among the trainer's `callbacks`, but got {len(found)}.")
    return found[0]
