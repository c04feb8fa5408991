"""The suite's defaults: configs/trainer.yaml, which every command reads before its own configs.

Loggers and callbacks stand at keys of their own there. In `trainer.logger` a logger of another class would inherit
their arguments, and a config's `trainer.callbacks` would replace a whole list of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, ProgressBar

from modules.command.checks import class_of
from modules.stage_config import as_list

DEFAULTS = Path(__file__).resolve().parents[2] / "configs" / "trainer.yaml"


def settle(config: Namespace, words: Sequence[str]) -> None:
    """Decide which defaults a run has: sets the others to null in the config of its subcommand.

    A default is left out where `trainer.callbacks` or `trainer.logger` has one of its kind, or where another setting of
    the trainer excludes it. Progress bars in the list go with `enable_progress_bar: false`.

    Args:
        words: The options of the command line, as `--key=value`.

    Raises:
        ValueError: An option sets a default that is left out.
    """
    trainer = config.get("trainer")
    if trainer is None:
        return  # an empty `trainer:`, which the parser reports
    kinds = [(class_of(one.get("class_path"), Callback), one) for one in as_list(trainer.get("callbacks"))]
    if trainer.get("enable_progress_bar") is False and _lists(kinds, ProgressBar):
        trainer["callbacks"] = [one for kind, one in kinds if not _is(kind, ProgressBar)]
    left_out = {
        "logger": trainer.get("logger") is not None,
        "checkpoint": trainer.get("enable_checkpointing") is False or _lists(kinds, ModelCheckpoint),
        "progress_bar": trainer.get("enable_progress_bar") is False or _lists(kinds, ProgressBar),
        "run_layout": _lists(kinds, class_of((config.get("run_layout") or {}).get("class_path"), Callback)),
    }
    if not left_out["logger"]:
        trainer["logger"] = config.get("logger") or False
    left_out["learning_rate_monitor"] = trainer["logger"] is False or _lists(kinds, LearningRateMonitor)
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
