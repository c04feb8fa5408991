"""End of training: regular end, time limit, or Ctrl-C."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from callbacks.run_checkpoint import accumulates, save_to_resume

NO_END = (EarlyStoppingReason.NOT_STOPPED, EarlyStoppingReason.NON_FINITE_METRIC)


def ended_by_itself(trainer: Trainer) -> bool:
    """Check whether a fit reached `max_steps`, `max_epochs` or EarlyStopping's criterion; not `max_time` or a NaN."""
    loop = trainer.fit_loop
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return True
    if loop.max_epochs not in (None, -1) and loop.epoch_progress.current.processed >= loop.max_epochs:
        return True
    stoppers = [one for one in trainer.callbacks if isinstance(one, EarlyStopping)]
    return trainer.should_stop and any(one.stopping_reason not in NO_END for one in stoppers)


class TimeLimit(Timer):
    """Ends a fit when this call has trained for `duration`: the Trainer's `max_time` in every fit of run.py.

    Lightning's Timer adds the time of earlier calls, stored in checkpoints: a run that it has ended would end again
    immediately whenever the same command is repeated or a job is requeued.
    """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class TrainingInterrupted(BaseException):
    """Raised on all ranks after a Ctrl-C, at the end of an optimizer step, once the checkpoint is written."""


class StopOnInterrupt(Callback):
    """Ctrl-C (SIGINT) ends a fit after the current optimizer step, with a checkpoint; a second one ends it immediately.

    Uses an exception rather than `trainer.should_stop`, before which Lightning validates. With several processes it is
    sufficient that one gets the signal: at every optimizer step the ranks reduce one number, so that all stop at the
    same step. This synchronises with the device, as Lightning's own broadcast before every micro-batch does.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._trains = False
        self._asked = False
        self._previous: Callable[[int, FrameType | None], Any] | int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Install the handler before the loader's processes are forked: they get the signal too, and must continue."""
        if stage == "fit" and threading.current_thread() is threading.main_thread():
            self._asked = self._trains = False
            self._previous = signal.signal(signal.SIGINT, self._answer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trains = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after a Ctrl-C during validation."""
        if self._trains:
            self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trains = False

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if accumulates(trainer) or not trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            return
        saved = "a checkpoint is written" if save_to_resume(trainer) else "no callback saves checkpoints"
        raise TrainingInterrupted(f"interrupted after step {trainer.global_step}: {saved}")

    def _answer(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        if not self._trains or self._asked:
            raise KeyboardInterrupt
        self._asked = True
        # Not print: the handler may interrupt a print.
        os.write(2, b"\nstops after this optimizer step; Ctrl-C again: at once\n")

    def _restore(self) -> None:
        """Restore Python's behaviour; Lightning may reinstall this handler later, which then acts like Python's own."""
        self._trains = False
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None
