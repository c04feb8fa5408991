"""The suite's defaults: configs/trainer.yaml, which every command reads before its own configs.

Loggers and callbacks stand at keys of their own there. In `trainer.logger` a logger of another class would inherit
their arguments, and a config's `trainer.callbacks` would replace a whole list of them.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, ProgressBar

from modules.command.checks import class_of
from modules.stage_config import as_list

STAGE_FOLDER = "${stage.folder}"
DEFAULTS = Path(__file__).resolve().parents[2] / "configs" / "trainer.yaml"


def settle(config: Namespace, words: Sequence[str], subcommand: str) -> None:
    """Decide which defaults a run has: sets the others to null in the config of its subcommand.

    A default is left out where `trainer.callbacks` or `trainer.logger` has one of its kind, where another setting of
    the trainer excludes it, and, if it is in the stage's folder, in a run without a stage: the folder that all of them
    share would lose the files of earlier ones. Progress bars in the list go with `enable_progress_bar: false`.

    Args:
        words: The options of the command line, as `--key=value`.

    Raises:
        ValueError: An option sets a default that is left out, or both kinds of precision are given.
    """
    trainer = config.get("trainer")
    if trainer is None:
        return  # an empty `trainer:`, which the parser reports
    own = next((word for word in words if re.match(r"--trainer\.precision\b", word)), None)
    if own and any(re.match(r"--precision\b", word) for word in words):
        raise ValueError(f"Expected one of `--precision auto` and `--trainer.precision`, but got both ({own}).")
    if own:
        config["precision"] = None  # a yaml's `precision: auto`
    kinds = [(class_of(one.get("class_path"), Callback), one) for one in as_list(trainer.get("callbacks"))]
    if trainer.get("enable_progress_bar") is False and _lists(kinds, ProgressBar):
        trainer["callbacks"] = [one for kind, one in kinds if not _is(kind, ProgressBar)]
    is_bare, is_training = bool(trainer.get("barebones")), subcommand in ("fit", "validate")
    has_no_checkpoint = is_bare or not is_training or trainer.get("enable_checkpointing") is False
    has_no_bar = is_bare or trainer.get("enable_progress_bar") is False
    has_no_folder = config.get("stage") is None and not any(word.startswith("--stage") for word in words)
    if has_no_folder and trainer.get("default_root_dir") == STAGE_FOLDER:
        trainer["default_root_dir"] = None
    layout = class_of((config.get("run_layout") or {}).get("class_path"), Callback)
    left_out = {
        "logger": is_bare or trainer.get("logger") is not None or (has_no_folder and subcommand != "predict"),
        "checkpoint": has_no_checkpoint or has_no_folder or _lists(kinds, ModelCheckpoint),
        "progress_bar": has_no_bar or _lists(kinds, ProgressBar),
        "run_layout": has_no_folder or _lists(kinds, layout),
    }
    if not left_out["logger"]:
        trainer["logger"] = config.get("logger") or False
    has_no_log = is_bare or not is_training or trainer["logger"] is False
    left_out["learning_rate_monitor"] = has_no_log or _lists(kinds, LearningRateMonitor)
    for key in (key for key, is_left_out in left_out.items() if is_left_out):
        for word in words:
            if word.startswith((f"--{key}.", f"--{key}=")) and not word.endswith("=null"):
                raise ValueError(
                    f"Expected no `--{key}` beside the other settings of `trainer`, but got {word}: its callbacks or "
                    "logger replace that default, or another setting of it excludes it."
                )
        config[key] = None
    config["logger"] = None


def _lists(kinds: Sequence[tuple[type | None, Any]], wanted: type | None) -> bool:
    return any(_is(kind, wanted) for kind, _ in kinds)


def _is(kind: type | None, wanted: type | None) -> bool:
    return kind is not None and wanted is not None and issubclass(kind, wanted)
