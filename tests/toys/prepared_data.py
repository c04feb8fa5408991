"""A datamodule that notes how it was prepared, and a model that cannot be built."""

import json
import os
import signal
import time
from pathlib import Path

from lightning.pytorch import LightningDataModule, LightningModule


class NotedData(LightningDataModule):
    """`prepare` writes its arguments and those of the class to `folder/noted.json`; with `ends`, a signal's name, it
    then sends that signal to its own process."""

    def __init__(self, folder: Path, num_batches: int = 1, hours: float = 0, ends: str = "") -> None:
        super().__init__()
        self.folder, self.num_batches, self.hours, self.ends = Path(folder), num_batches, hours, ends

    def prepare(self, num_processes: int = 1, share: tuple[int, int] = (0, 1)) -> None:
        noted = {"num_processes": num_processes, "share": share, "hours": self.hours, "num_batches": self.num_batches}
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "noted.json").write_text(json.dumps(noted))
        if self.ends:
            os.kill(os.getpid(), signal.Signals[self.ends])
            time.sleep(10)
            raise AssertionError("the signal ended nothing")


class UnpreparedData(LightningDataModule):
    """Data that another command makes."""


class UnbuildableModel(LightningModule):
    def __init__(self, size: int = 1) -> None:
        raise AssertionError("a preparation built the model")
