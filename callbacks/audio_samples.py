"""AudioSamples: logs the codec's reconstructions of a few fixed held-out recordings during training.

Shapes: B items, T audio samples.
"""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.evaluation_mode import evaluation_mode
from callbacks.media import log_audio, log_figure
from callbacks.weight_averaging import averaged_weights
from modules.api import Audio
from modules.batches import AudioBatch
from modules.report.figures import mel_figure


class AudioSamples(Callback):
    """Logs recordings of the first validation batch with their reconstructions: audio and mel spectrograms.

    The module must have `resynthesise(audio_BT, num_samples_B) -> audio_BT`. The items are taken from the first
    validation batch of the run (usually the sanity check's) and stay the same to the end.

    Args:
        num_items: Number of items of that batch.
        every_n_steps: Logging interval in steps; None = at the end of each validation.
        sample_rate: Sample rate of the module's audio, in Hz.
        max_seconds: Longer items are cut, to keep logs small.
    """

    def __init__(
        self, sample_rate: int, num_items: int = 4, every_n_steps: int | None = None, max_seconds: float = 10.0
    ) -> None:
        for name, value in (("num_items", num_items), ("every_n_steps", 1 if every_n_steps is None else every_n_steps)):
            if value < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, but got {value}.")
        self.sample_rate = sample_rate
        self.num_items = num_items
        self.every_n_steps = every_n_steps
        self.max_seconds = max_seconds
        self.recordings: dict[str, Tensor] = {}
        self.last_step = -1

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: AudioBatch, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if self.recordings or batch_idx or dataloader_idx:
            return
        longest = int(self.max_seconds * self.sample_rate)
        lengths = batch.num_samples_B[: self.num_items].clamp(max=longest).tolist()
        for key, audio_T, length in zip(batch.keys, batch.audio_BT, lengths, strict=False):
            self.recordings[key] = audio_T[:length].detach().float().cpu().clone()
        for key, audio_T in self.recordings.items():
            log_audio(trainer.loggers, f"recording/{key}", Audio(audio_T, self.sample_rate), trainer.global_step)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_steps is None and not trainer.sanity_checking:
            self.log_reconstructions(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: AudioBatch, batch_idx: int
    ) -> None:
        if self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0:
            self.log_reconstructions(trainer, pl_module)

    def log_reconstructions(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Every rank resynthesises (a sharded module cannot run on one rank alone); rank zero logs. Uses the averaged
        weights if there are any."""
        if not self.recordings or trainer.global_step == self.last_step:
            return
        self.last_step = trainer.global_step
        with averaged_weights(trainer, pl_module):
            reconstructions = _resynthesised(pl_module, list(self.recordings.values()))
        if not trainer.is_global_zero:
            return
        for (key, recording_T), reconstruction_T in zip(self.recordings.items(), reconstructions, strict=True):
            recording = Audio(recording_T, self.sample_rate)
            reconstruction = Audio(reconstruction_T, self.sample_rate)
            figure = mel_figure([("recording", recording), ("reconstruction", reconstruction)])
            log_audio(trainer.loggers, f"reconstruction/{key}", reconstruction, trainer.global_step)
            log_figure(trainer.loggers, f"val/mel/{key}", figure, trainer.global_step)


def _resynthesised(pl_module: LightningModule, recordings: list[Tensor]) -> list[Tensor]:
    """The module's reconstructions on the CPU, each as long as its recording. Restores the mode of every submodule."""
    lengths_B = torch.tensor([audio_T.numel() for audio_T in recordings], device=pl_module.device)
    audio_BT = torch.nn.utils.rnn.pad_sequence(recordings, batch_first=True).to(pl_module.device)
    with evaluation_mode(pl_module), torch.no_grad():
        resynthesised_BT = pl_module.resynthesise(audio_BT, lengths_B).float().cpu()
    return [audio_T[:length] for audio_T, length in zip(resynthesised_BT, lengths_B.tolist(), strict=True)]
