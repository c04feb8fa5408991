"""RunProgressBar: the progress bar of every run."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import convert_inf


class RunProgressBar(TQDMProgressBar):
    """Lightning's TQDMProgressBar, which shares a terminal with the bars of evaluations (Rich's does not) and shows the
    time left of a run resumed within an epoch too. Lightning sets the bar's total when an epoch starts, which it does
    not do for an epoch that goes on."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        bar = self.train_progress_bar
        bar.n = bar.initial = trainer.fit_loop.epoch_loop.batch_progress.current.ready  # the rate is that of this run
        # With `max_steps` Lightning's number is that of the remaining batches.
        bar.total = convert_inf(min(trainer.num_training_batches, self.total_train_batches + bar.n))
        bar.set_description(f"Epoch {trainer.current_epoch}")
