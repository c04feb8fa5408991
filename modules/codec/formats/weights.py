"""Tensors from files, and into a codec with nothing missing and nothing left over."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modules.checkpoint_files import SHARDS_METADATA, read_checkpoint
from modules.hub import download, is_hub_name

MAX_LISTED = 40
HUB_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # of X-codec2, which holds a training's checkpoint beside it


def local_path(path: Path) -> Path:
    """The file or folder itself, or the folder of a name on the model hub, with what is read of it alone.

    It is downloaded where it is not in the cache. Raises FileNotFoundError where there is neither.
    """
    if path.exists():
        return path
    absent = f"Expected a codec's file, folder or hub name, but got `{path}`, where there is nothing."
    if not is_hub_name(str(path)):
        raise FileNotFoundError(f"{absent} A codec of yours is there once it is trained.")
    try:
        return download(str(path), HUB_WEIGHTS, ("config.json", "*.index.json"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{absent} The hub: {error}") from error


def read_tensors(path: Path) -> dict[str, Any]:
    """The content of a .safetensors file or of one of torch.save. Raises as read_checkpoint."""
    if path.suffix == ".safetensors" and path.is_file():
        from safetensors.torch import load_file

        return load_file(path)
    return read_checkpoint(path, "a codec checkpoint")


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a Hugging Face folder: one file or several. Raises FileNotFoundError, ValueError for the shards of
    a training."""
    if (folder / SHARDS_METADATA).is_file():
        return read_tensors(folder)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return read_tensors(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            return {key: value for shard in shards for key, value in read_tensors(folder / shard).items()}
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
