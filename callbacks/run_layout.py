"""RunLayout: says where a run keeps its files, when it starts and when it ends."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

FOLDERS = {
    "checkpoints": "weights and the state to resume from",
    "tensorboard": "scalars, figures and audio",
    "candidates": "samples of a sweep, with codes and scores",
    "report": "the page to look at and listen to",
}


def described_run(folder: Path) -> str:
    """The run's folders: what each is for, how many files it holds, how large they are, and the report's address."""
    lines = [f"{folder}/"]
    for name, purpose in FOLDERS.items():
        files = [path for path in (folder / name).rglob("*") if path.is_file()]
        content = "not there yet"
        if files:
            content = f"{len(files)} file{'s' * (len(files) > 1)}, {readable_size(sum(map(_size, files)))}"
        elif (folder / name).is_dir():
            content = "empty"
        lines.append(f"  {name + '/':<13} {content:<22} {purpose}")
    page = folder / "report" / "index.html"
    if page.is_file():
        lines.append(f"  report: {page.resolve().as_uri()}")
    return "\n".join(lines)


def readable_size(num_bytes: float) -> str:
    """Bytes in the unit that a reader would choose: 512 B, 1.5 kB, 20.0 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def _size(path: Path) -> int:
    """0 for a file that another process removed in the meantime."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class RunLayout(Callback):
    """Prints the layout of the run's folder at the start and the end of fit, validate, test and predict (rank zero).

    Args:
        folder: runs/NAME; None = the trainer's `default_root_dir`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._print(trainer, "starts")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._print(trainer, "ended")

    def _print(self, trainer: Trainer, event: str) -> None:
        if trainer.is_global_zero:
            folder = Path(self.folder or trainer.default_root_dir)
            print(f"{trainer.state.fn.value} {event}: {described_run(folder)}", flush=True)
