"""Tensors from files, and into a codec with nothing missing and nothing left over."""

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor, nn

from modules.hub import download

MAX_LISTED = 40
SHARDS_METADATA = "meta.pt"  # beside the shards that Lightning's ModelParallelStrategy writes
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
HUB_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # of X-codec2, which holds a training's checkpoint beside it


def local_path(path: Path) -> Path:
    """The file or folder itself, or the folder of a name on the model hub, with what is read of it alone.

    It is downloaded where it is not in the cache. Raises FileNotFoundError where there is neither.
    """
    if path.exists():
        return path
    absent = f"Expected a codec's file, folder or hub name, but got `{path}`, where there is nothing."
    if not HUB_NAME.fullmatch(str(path)) or path.suffix in (".ckpt", ".safetensors", ".bin"):
        raise FileNotFoundError(f"{absent} A codec of yours is there once it is trained.")
    try:
        return download(str(path), HUB_WEIGHTS, ("config.json", "*.index.json"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{absent} The hub: {error}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a .safetensors file or one of torch.save holds. Raises FileNotFoundError, ValueError for other content."""
    if (path / SHARDS_METADATA).is_file():
        raise ValueError(
            f"Expected a codec checkpoint in one file, but `{path}` is a folder of shards. Join them: "
            f"python -m lightning.fabric.utilities.consolidate_checkpoint {path} and take `{path}.consolidated`."
        )
    if not path.is_file():
        raise FileNotFoundError(f"Expected a codec checkpoint at `{path}`, but there is none.")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        if isinstance(error, EOFError) or not is_zipfile(path):
            raise ValueError(
                f"Expected a codec checkpoint at `{path}`, but it is none, or is damaged: copy it again."
            ) from error
        raise ValueError(
            f"Expected `{path}` to hold tensors and plain data, but got more, which could run code on loading. If you "
            f"trust it: torch.save(torch.load(path, weights_only=False)['state_dict'], other_path)."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected a dictionary in `{path}`, but got {type(content).__name__}.")
    return content


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a Hugging Face folder: one file or several. Raises FileNotFoundError, ValueError for the shards of
    a training."""
    if (folder / SHARDS_METADATA).is_file():
        return read_checkpoint(folder)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return read_checkpoint(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            return {key: value for shard in shards for key, value in read_checkpoint(folder / shard).items()}
    raise FileNotFoundError(f"Expected model.safetensors or pytorch_model.bin in `{folder}`, but there is neither.")


def fill(module: nn.Module, tensors: Mapping[str, Tensor], surplus: Sequence[str], source: Path) -> None:
    """Load `tensors` into a module. `surplus` are keys of the file that have no name here.

    Raises ValueError that lists what is missing, surplus (also buffers that are not loaded) or of another shape.
    """
    try:
        missing, unexpected = module.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f"Expected the tensors of `{source}` to fit the codec, but got: {' '.join(str(error).split())}"
        ) from error
    surplus = [*surplus, *unexpected]
    if missing or surplus:
        raise ValueError(
            f"Expected the weights of the codec in `{source}`, but {_listed('missing', missing)}, "
            f"{_listed('surplus', surplus)}."
        )


def _listed(what: str, keys: Sequence[str]) -> str:
    shown = ", ".join(sorted(keys)[:MAX_LISTED])
    return f"{what} {len(keys)} keys [{shown}{', ...' if len(keys) > MAX_LISTED else ''}]"
