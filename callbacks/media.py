"""Logging of audio and figures: to TensorBoard, or to any logger with `log_audio` and `log_image`."""

import logging
from collections.abc import Sequence
from functools import cache

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.figure import Figure

from modules.api import Audio
from modules.report.figures import rendered_pixels

logger = logging.getLogger(__name__)


@cache
def _say_once(logger_class: str, medium: str) -> None:
    logger.info("%s takes no %s: it gets the scalars only.", logger_class, medium)


def log_audio(loggers: Sequence[Logger], name: str, audio: Audio, step: int) -> None:
    """Log the audio with every logger that supports audio. Samples beyond [-1, 1] are clipped."""
    samples_T = audio.samples_T.detach().float().cpu().clamp(-1, 1)
    for one in loggers:
        if isinstance(one, TensorBoardLogger):
            one.experiment.add_audio(name, samples_T.unsqueeze(0), step, sample_rate=audio.sample_rate)
        elif hasattr(one, "log_audio"):
            one.log_audio(name, [samples_T.numpy()], step=step, sample_rate=[audio.sample_rate])
        else:
            _say_once(type(one).__name__, "audio")


def log_figure(loggers: Sequence[Logger], name: str, figure: Figure, step: int) -> None:
    """Render the figure and log it with every logger that supports images."""
    pixels: np.ndarray | None = None
    for one in loggers:
        takes_images = isinstance(one, TensorBoardLogger) or hasattr(one, "log_image")
        if not takes_images:
            _say_once(type(one).__name__, "figures")
            continue
        pixels = rendered_pixels(figure) if pixels is None else pixels
        if isinstance(one, TensorBoardLogger):
            one.experiment.add_image(name, pixels, step, dataformats="HWC")
        else:
            one.log_image(name, [pixels], step=step)
