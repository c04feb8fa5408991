"""DurableCheckpointIO: atomic checkpoint writes that stay complete whenever the process is killed."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

PARTIAL = ".partial"


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes under a temporary name next to the target, syncs to disk, then renames.

    Lightning's own save uses the system's temporary folder, and moving from there to another file system is a copy that
    a kill can interrupt. run.py uses this class in every fit. Folders of shards (ModelParallelStrategy with
    `save_distributed_checkpoint: true`) do not use it: set `save_last: link` for them, so that none is overwritten.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if storage_options is not None:
            raise TypeError(f"Expected no `storage_options`, but got {storage_options!r}.")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        for stale in target.parent.glob(f".*{PARTIAL}"):  # left by killed runs: a folder has one writer
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
    """Sync the directory entries of `folder` to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
