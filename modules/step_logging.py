"""Logging of training steps at the trainer's interval."""

from typing import Any

import torch
from torch import Tensor


def is_logged_step(trainer: Any) -> bool:
    """Check whether a logger stores the values of the current training step. Without a logger, every step counts,
    because callbacks may read them."""
    every = trainer.log_every_n_steps
    return not trainer.loggers or bool(every and not (trainer.global_step + 1) % every)


def log_step(trainer: Any, values: dict[str, float | Tensor]) -> None:
    """Log scalars of the current training step immediately, and make them available to callbacks that monitor one.

    Like LearningRateMonitor. Lightning's `log` costs the host some tenths of a millisecond per scalar, because it keeps
    and moves an object that could also reduce over an epoch. Call it if `is_logged_step`, once per update.
    """
    trainer.callback_metrics.update({name: torch.as_tensor(value) for name, value in values.items()})
    for logger in trainer.loggers:
        logger.log_metrics(values, step=trainer.global_step)
