"""callbacks/run_progress_bar.py: the bar of a run that is resumed within an epoch."""

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader

from callbacks.run_progress_bar import RunProgressBar


class Seen(Callback):
    """The bar after each step: total, first step, step and description. Saves a checkpoint after the third."""

    def __init__(self, path):
        self.path, self.bars = path, []

    def on_train_batch_end(self, trainer, *_):
        bar = trainer.progress_bar_callback.train_progress_bar
        self.bars.append((bar.total, bar.initial, bar.n, bar.desc))
        if trainer.global_step == 3:
            trainer.save_checkpoint(self.path)


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.randn(32)


def fitted(folder, checkpoint=None):
    seen = Seen(folder / "third.ckpt")
    trainer = Trainer(
        accelerator="cpu", max_steps=6, limit_val_batches=0, logger=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=[RunProgressBar(), seen], enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(BoringModel(), DataLoader(Data()), ckpt_path=checkpoint)
    return seen.bars


def test_a_resumed_bar_has_its_total_and_counts_this_run_alone(tmp_path):
    """Guards against "60/?" without a time left, and a rate that counts the steps of the earlier run."""
    assert fitted(tmp_path) == [(6, 0, step, "Epoch 0: ") for step in range(1, 7)]
    assert fitted(tmp_path, tmp_path / "third.ckpt") == [(6, 3, step, "Epoch 0: ") for step in (4, 5, 6)]
