"""TensorBoardLog: the TensorBoard logger of every run, with the training curves first and no blank charts."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger


class TensorBoardLog(TensorBoardLogger):
    """Lightning's TensorBoardLogger. TensorBoard sorts charts by the part of the tag before the first slash, and the
    first two groups of a fit should be `train` and `val`. Therefore Lightning's own tags `lr-NAME` and `epoch` move to
    `train/`. Outside of a training `epoch` is left out, and by default `hp_metric`, a chart with one point of -1.

    Args:
        save_dir: Folder of the logs.
        name: Folder in it.
        version: Folder in that.
        default_hp_metric: Whether to write `hp_metric`.
        kwargs: The other arguments of TensorBoardLogger.
    """

    def __init__(
        self,
        save_dir: str,
        name: str = "tensorboard",
        version: str | int = "",
        default_hp_metric: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(save_dir, name, version, default_hp_metric=default_hp_metric, **kwargs)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        is_training = any(tag.startswith(("train/", "lr-")) for tag in metrics)
        kept = {tag: value for tag, value in metrics.items() if is_training or tag != "epoch"}
        super().log_metrics({_tag(tag): value for tag, value in kept.items()}, step)


def _tag(tag: str) -> str:
    return f"train/{tag}" if tag == "epoch" or tag.startswith("lr-") else tag
