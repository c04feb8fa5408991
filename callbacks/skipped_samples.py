"""SkippedSamples: counts the samples that a run could not use, over all loader workers and ranks."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils._pytree import tree_leaves

from datamodules.shards.skips import SkipCount
from modules.step_logging import is_logged_step, log_step

NUM_EXAMPLES = 3


class SkippedSamples(Callback):
    """Sums the samples that the loaders of all ranks skip (datamodules/shards/skips.py). In every command of run.py.

    Logs `train/num_skipped_samples` in training, counted since the run's start or resume, once there are any; prints
    their number and the reasons at the end of a run, if there are any. A training that is interrupted or fails prints
    those of the first rank. Training samples count each time they occur, evaluation samples once.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not is_logged_step(trainer):
            return
        number = float(sum(count.number for count in counts_of(trainer.train_dataloader)))
        if trainer.world_size > 1:
            number = float(trainer.strategy.reduce(torch.tensor(number, device=pl_module.device), reduce_op="sum"))
        if number:
            log_step(trainer, {"train/num_skipped_samples": number})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, "training", trainer.train_dataloader, repeats=True)
        self._report(trainer, "validation", trainer.val_dataloaders)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._report(trainer, "validation", trainer.val_dataloaders)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, "test", trainer.test_dataloaders)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, "predict", trainer.predict_dataloaders)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.state.fn == TrainerFn.FITTING:  # Ctrl-C too
            self._report(trainer, "training", trainer.train_dataloader, repeats=True, gathers=False)

    def _report(self, trainer: Trainer, what: str, loaders: Any, repeats: bool = False, gathers: bool = True) -> None:
        """Print the counts. `gathers`: over all ranks; otherwise, if the others may have exited, of this one."""
        own = [(count.number, count.reasons) for count in counts_of(loaders)]
        everyone = [own]
        if trainer.world_size > 1 and gathers:
            everyone = [own] * trainer.world_size
            torch.distributed.all_gather_object(everyone, own)
        # By loader: several ranks may read the same prompts, and two splits may have the same key.
        reasons = {(place, key): why for counts in everyone for place, (_, some) in enumerate(counts)
                   for key, why in some.items()}  # fmt: skip
        number = sum(number for counts in everyone for number, _ in counts) if repeats else len(reasons)
        if number and trainer.is_global_zero:
            of = f", of {len(reasons)} recordings or texts," if repeats else ""
            print(f"{what}: {number} samples{of} could not be used and were skipped. The first:", flush=True)
            for (_, key), why in list(reasons.items())[:NUM_EXAMPLES]:
                print(f"  {key}: {why}", flush=True)


def counts_of(loaders: Any) -> list[SkipCount]:
    """The skip counters of one loader or several."""
    found = (getattr(getattr(loader, "dataset", None), "skipped", None) for loader in tree_leaves(loaders))
    return [count for count in found if isinstance(count, SkipCount)]
