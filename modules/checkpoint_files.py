"""Checkpoint files of torch.save, read without running code of theirs."""

import pickle
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch

SHARDS_METADATA = "meta.pt"  # beside the shards that Lightning's ModelParallelStrategy writes


def read_checkpoint(path: Path, kind: str) -> dict[str, Any]:
    """The dictionary of tensors and plain data in a file, on the CPU and mapped into memory where its format allows.

    `kind` names in messages what is expected, such as "a codec checkpoint".
    Raises FileNotFoundError; ValueError for a folder of shards, a damaged file, or one that holds anything else.
    """
    if (path / SHARDS_METADATA).is_file():
        raise ValueError(
            f"Expected {kind} in one file, but `{path}` is a folder of shards. Join them: "
            f"python -m lightning.fabric.utilities.consolidate_checkpoint {path} and take `{path}.consolidated`."
        )
    if not path.is_file():
        raise FileNotFoundError(f"Expected {kind} at `{path}`, but there is none.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        if isinstance(error, EOFError) or not is_zipfile(path):
            raise ValueError(f"Expected {kind} at `{path}`, but it is none, or is damaged: copy it again.") from error
        raise ValueError(
            f"Expected `{path}` to hold tensors and plain data, but got more, which could run code on loading. If you "
            f"trust it: torch.save(torch.load(path, weights_only=False)['state_dict'], other_path)."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected a dictionary in `{path}`, but got {type(content).__name__}.")
    return content
