"""Checkpoints of a run: on optimizer steps only, including the last one."""

import os
import shutil
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from callbacks.durable_checkpoints import PARTIAL


def accumulates(trainer: L.Trainer) -> bool:
    """Check whether the last micro-batch is inside an accumulation window; checkpoints do not include its gradient."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, restricted to optimizer steps and including the end of training.

    With `every_n_train_steps` Lightning saves only at multiples: of 1,400 updates it would keep 1,200 at 400.
    Lightning also saves inside an accumulation window, at a time limit or at the first micro-batch after a resume: a
    run that resumes there has lost the gradients of the window so far. For the same reason a validation inside a window
    saves nothing: with `monitor`, `val_check_interval` should be a multiple of `accumulate_grad_batches`.
    """

    # No __init__: its arguments are Lightning's.
    _trained = False
    _stops_later = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._trained = self._stops_later = False

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self._trained = True
        self._stops_later |= trainer.should_stop  # for example by `max_time`
        trainer.should_stop = self._stops_later and not accumulates(trainer)
        if accumulates(trainer):
            return
        super().on_train_batch_end(trainer, pl_module, *args)
        if trainer.global_step == trainer.max_steps:
            self._save_unless_saved(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not accumulates(trainer):
            super().on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save at the end of a run that ends by its epochs, or early."""
        self._save_unless_saved(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete a run that resumed after its last step, from `step=N.ckpt`: killed before it wrote `last.ckpt`."""
        if self._trained or not self.save_last or not trainer.ckpt_path or trainer.fast_dev_run:
            return
        source, last = Path(trainer.ckpt_path), Path(self.dirpath or "") / "last.ckpt"
        if source.resolve() == last.resolve():
            return
        last.parent.mkdir(parents=True, exist_ok=True)
        if self.save_last == "link":
            self._link_checkpoint(trainer, str(source), str(last))
        elif trainer.is_global_zero and source.is_file():
            partial = last.with_name(f".{last.name}{PARTIAL}")
            shutil.copyfile(source, partial)
            os.replace(partial, last)

    def _save_unless_saved(self, trainer: L.Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            save(self, trainer)


class SavedBefore(Callback):
    """Marks, after a resume, the step that the run resumed from as saved.

    Lightning does not restore this. The first micro-batch of a window, after which the step is still the same, would
    then overwrite the checkpoint. Savers with `monitor` are not changed: the checkpoint may be another saver's.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for saver in trainer.checkpoint_callbacks:
            if isinstance(saver, ModelCheckpoint) and saver.monitor is None and saver._every_n_train_steps:
                saver._last_global_step_saved = trainer.global_step


def save(saver: ModelCheckpoint, trainer: L.Trainer) -> None:
    """Save now with a saver, under its own file names."""
    found = saver._monitor_candidates(trainer)
    saver._save_topk_checkpoint(trainer, found)
    saver._save_last_checkpoint(trainer, found)


def save_to_resume(trainer: L.Trainer) -> bool:
    """Save a checkpoint to resume from, at an optimizer step, unless that step is saved. Returns False without a
    saver."""
    savers = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
    savers = [one for one in savers if not one.save_weights_only]
    if not savers:
        return False
    # Use the saver that writes `last.ckpt`; the files of one that keeps the best are not changed.
    saver = min(savers, key=lambda one: (one.monitor is not None, not one.save_last))
    if saver._last_global_step_saved == trainer.global_step:
        return True
    if saver.monitor is None:
        save(saver, trainer)
        return saver._last_global_step_saved == trainer.global_step
    trainer.save_checkpoint(Path(saver.dirpath or "") / f"interrupted-step={trainer.global_step}.ckpt")
    return True
