"""RunLayout: prints the contents of a run's folder at the start and the end of the run."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.codec_evaluation import CodecReport
from callbacks.scaling_report import ScalingReport
from callbacks.training_speech import TrainingSpeech

PURPOSES = {
    "checkpoints": "weights and the state to resume from",
    "tensorboard": "scalars, figures and audio",
    "candidates": "samples of a sweep, with codes and scores",
    "report": "the report page, with audio",
    "speech": "held-out sentences, spoken during training",
}
WRITE_PAGES = CodecReport | ScalingReport | TrainingSpeech


def described_run(folder: Path) -> str:
    """List the run's folder: number and size of files for each folder, and the purpose of each entry that runs of this
    suite write. Hidden files are omitted."""
    lines = [f"{folder}/"]
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    for entry in (one for one in entries if not one.name.startswith(".")):
        name, content = entry.name, readable_size(_size(entry))
        if entry.is_dir():
            files = [path for path in entry.rglob("*") if path.is_file()]
            size = readable_size(sum(map(_size, files)))
            name, content = f"{name}/", f"{len(files)} file{'s' * (len(files) > 1)}, {size}" if files else "empty"
        lines.append(f"  {name:<13} {content:<22} {PURPOSES.get(entry.name, '')}".rstrip())
    return "\n".join(lines) if len(lines) > 1 else f"{folder}/ is empty"


def readable_size(num_bytes: float) -> str:
    """Format a number of bytes: 512 B, 1.5 kB, 20.0 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def _size(path: Path) -> int:
    """Size in bytes; 0 for a file that another process has removed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class RunLayout(Callback):
    """Prints the contents of the run's folder at the start and the end of fit, validate, test and predict (rank zero),
    and at the end the URL of the report that the run wrote.

    Args:
        folder: runs/NAME; None = the trainer's `default_root_dir`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._print(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._print(trainer, f"{trainer.state.fn.value} ended: ")

    def _print(self, trainer: Trainer, ended: str = "") -> None:
        if trainer.is_global_zero:
            folder = Path(self.folder or trainer.default_root_dir)
            print(f"{ended}{described_run(folder)}", flush=True)
            for one in trainer.callbacks:
                if ended and isinstance(one, WRITE_PAGES) and one.page is not None:
                    print(f"  report: {one.page.resolve().as_uri()}", flush=True)
