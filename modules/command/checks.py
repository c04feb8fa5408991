"""Checks before a command starts and writes: its config is for this subcommand, its checkpoint is of its model."""

import zipfile
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import Callback, LearningRateFinder, ProgressBar

from modules.stages import made_by, newest_checkpoint

LOADERS = {
    "fit": "train_dataloader",
    "validate": "val_dataloader",
    "test": "test_dataloader",
    "predict": "predict_dataloader",
}
WORDS = ("last", "hpc", "registry")  # values of `ckpt_path` besides files, URLs and "registry:NAME"
TAKES_PREDICTIONS = ("write_on_batch_end", "write_on_epoch_end", "on_predict_batch_end", "on_predict_epoch_end")
OWN_STEPS = ("modules.lm_module", "modules.codec_module")  # their predict_step only returns codes or prompts


def check_subcommand(subcommand: str, data: str | None, model: str | None, callbacks: Iterable[Any]) -> None:
    """Raises ValueError for a config of another subcommand, and for a callback that does not work with our models.

    Args:
        data: class_path of the datamodule. Not checked, as the other arguments, if None or not importable.
        callbacks: Parts of the config that include the callbacks.
    """
    data_class, model_class = class_of(data, LightningDataModule), class_of(model, LightningModule)
    kinds = [kind for one in callbacks if (kind := class_of(_path(one), Callback)) is not None]
    if data_class is not None and not _overrides(data_class, LightningDataModule, LOADERS[subcommand]):
        able = [name for name, loader in LOADERS.items() if _overrides(data_class, LightningDataModule, loader)]
        raise ValueError(
            f"Expected a config for {subcommand}, but got one whose data, {data_class.__name__}, serves "
            f"{' and '.join(able) or 'no command'} alone. The first line of a config says what it is for."
        )
    if model_class is None or model_class.__module__ not in OWN_STEPS:
        return
    if subcommand == "predict" and not any(map(_takes_predictions, kinds)):
        raise ValueError(
            "Expected a config for predict, but got one without a callback that writes what is predicted "
            "(TokenShardWriter, ResynthesisWriter, SpeechWriter). The first line of a config says what it is for."
        )
    if any(issubclass(kind, LearningRateFinder) for kind in kinds):
        raise ValueError(
            f"Expected no LearningRateFinder, but got one: {model_class.__name__} takes its learning rate with the "
            "optimizer, where that callback cannot set it. Set --model.init_args.optimizer.init_args.lr."
        )


def check_checkpoint_path(path: Any, folders: Iterable[Path]) -> None:
    """Raises FileNotFoundError for a missing file; ValueError for `best`, for a file with weights only, and for a
    folder that is not a sharded checkpoint.

    Args:
        folders: Checkpoint folders of the config; the error lists the files in them.
    """
    if path == "best":
        raise ValueError(
            "Expected `ckpt_path` to be a file or `last`, but got `best`, which is known only to the process that "
            f"trained. {_listed(folders)}"
        )
    if path and not Path(path).exists() and path not in WORDS and ":" not in str(path):
        raise FileNotFoundError(f"Expected a checkpoint at `{path}`, but got nothing there. {made_by(Path(path))}")
    if path and Path(path).suffix == ".safetensors":
        raise ValueError(
            f"Expected `ckpt_path` to be a checkpoint of Lightning, but `{path}` holds weights alone: a language model "
            "takes their folder as `pretrained`."
        )
    if path and Path(path).is_dir() and not (Path(path) / "meta.pt").is_file():
        raise ValueError(f"Expected `ckpt_path` to be a file, but got the folder `{path}`. {_listed([Path(path)])}")


def check_model(path: Any, wanted: str | None, stored: str | None) -> None:
    """Raises ValueError if the class in a checkpoint is unrelated to that of the config."""
    wanted_class, stored_class = class_of(wanted, LightningModule), class_of(stored, LightningModule)
    if wanted_class is None or stored_class is None:
        return
    if not (issubclass(stored_class, wanted_class) or issubclass(wanted_class, stored_class)):
        raise ValueError(
            f"Expected `ckpt_path` to be a checkpoint of {wanted_class.__name__}, which this config runs, but "
            f"`{path}` is one of {stored_class.__name__}."
        )


def unreadable(path: Any, error: Exception) -> ValueError:
    """The error to raise if torch.load cannot or may not read a checkpoint."""
    expected = f"Expected `ckpt_path` to be a checkpoint of Lightning, but `{path}`"
    if zipfile.is_zipfile(path) and not isinstance(error, AttributeError):
        return ValueError(
            f"{expected} holds more than tensors and plain data, which could run code on loading, and is not read. A "
            "model that was built in Python, not by run.py, stores its parts so."
        )
    return ValueError(f"{expected} is none, or is damaged: copy it again, or name an earlier one.")


def last_checkpoint(subcommand: str, folders: Sequence[Path]) -> Path | None:
    """The file that `ckpt_path: last` refers to: the newest, None for a fit without one.

    Raises ValueError if another subcommand finds none: it would use random weights.
    """
    newest = newest_checkpoint(folders)
    if subcommand != "fit" and newest is None:
        where = f"none in {', '.join(map(str, folders))}" if folders else "a config that saves none: name a file"
        raise ValueError(f"Expected a checkpoint to {subcommand}, but got {where}.")
    return newest


def _takes_predictions(kind: type) -> bool:
    return not issubclass(kind, ProgressBar) and any(_overrides(kind, Callback, name) for name in TAKES_PREDICTIONS)


def _overrides(kind: type, parent: type, name: str) -> bool:
    return hasattr(kind, name) and getattr(kind, name) is not getattr(parent, name, None)


def _listed(folders: Iterable[Path]) -> str:
    files = [str(file) for folder in folders for file in sorted(folder.glob("*.ckpt"))]
    return f"Name one: {', '.join(files)}." if files else "Name a file: --ckpt_path FILE."


def _path(one: Any) -> str | None:
    return one.get("class_path") if hasattr(one, "get") else None


def class_of(path: str | None, parent: type) -> type | None:
    """The class at a class_path, or None (the parser reports it) if it does not exist or is no subclass of `parent`."""
    module, _, name = (path or "").rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError):
        return None
    return kind if isinstance(kind, type) and issubclass(kind, parent) else None
