"""Logging of training steps at the trainer's interval."""

from typing import Any

import torch
from torch import Tensor


def is_logged_step(trainer: Any) -> bool:
    """Whether a logger stores the numbers of the present training step: nobody reads them at other steps. Without a
    logger, every step is one: callbacks may look.
    """
    every = trainer.log_every_n_steps
    return not trainer.loggers or bool(every and not (trainer.global_step + 1) % every)


def log_step(trainer: Any, values: dict[str, float | Tensor]) -> None:
    """Give the scalars of the present training step to the loggers at once, and to callbacks that monitor one.

    What LearningRateMonitor does. Lightning's `log` takes the host some tenths of a millisecond for each scalar, for it
    keeps and moves an object that could also reduce over an epoch. Call it where `is_logged_step`, once per update.
    """
    trainer.callback_metrics.update({name: torch.as_tensor(value) for name, value in values.items()})
    for logger in trainer.loggers:
        logger.log_metrics(values, step=trainer.global_step)
