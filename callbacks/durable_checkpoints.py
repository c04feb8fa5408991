"""DurableCheckpointIO: a checkpoint is there whole under its name, or not at all, whenever the process is killed."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

PARTIAL = ".partial"


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes beside the target under another name, waits for the disk, then renames.

    Lightning's own save goes through the system's temporary folder, from where a move to another file system is a copy
    that a kill can cut short. run.py gives it to every fit. Folders of shards (ModelParallelStrategy with
    `save_distributed_checkpoint: true`) do not pass here: use `save_last: link` with them, so that none is overwritten.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if storage_options is not None:
            raise TypeError(f"Expected no `storage_options`, but got {storage_options!r}.")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        for stale in target.parent.glob(f".*{PARTIAL}"):  # of runs that were killed: a folder has one writer
            stale.unlink(missing_ok=True)
        partial = target.with_name(f".{target.name}{PARTIAL}")
        with partial.open("wb") as stream:
            torch.save(checkpoint, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)
        sync_folder(target.parent)

    def remove_checkpoint(self, path: Any) -> None:
        super().remove_checkpoint(path)
        sync_folder(Path(path).parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
