"""EMAWeightAveraging against an average by hand, and a resumed run against an uninterrupted one."""

from pathlib import Path

import lightning.pytorch.callbacks
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.audio_samples import AudioSamples
from callbacks.run_checkpoint import RunCheckpoint
from callbacks.weight_averaging import EMAWeightAveraging
from modules.batches import AudioBatch

DECAY, NUM_BATCHES = 0.5, 4


class Gain(LightningModule):
    """One weight, the gain of its resynthesis; batches are recordings."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))
        self.heard: list[float] = []

    def resynthesise(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        self.heard.append(float(self.gain.detach()))
        return audio_BT * self.gain

    def training_step(self, batch: AudioBatch, batch_index: int) -> Tensor:
        return (self.gain * batch.audio_BT).mean()

    def validation_step(self, batch: AudioBatch, batch_index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class Probe(Callback):
    """Records the weight after each update, and in validation, where it also saves a checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path, self.trained, self.validated = path, [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        self.trained.append(float(module.gain.detach()))

    def on_validation_epoch_end(self, trainer, module) -> None:
        self.validated.append(float(module.gain.detach()))
        trainer.save_checkpoint(self.path)


def loader() -> DataLoader:
    levels = torch.linspace(1.0, 2.0, NUM_BATCHES)
    batches = [AudioBatch(torch.full((1, 4000), float(level)), torch.tensor([4000]), ["a"], [{}]) for level in levels]
    return DataLoader(batches, batch_size=None)


def fit(callbacks: list[Callback], max_epochs: int, ckpt_path: Path | None = None, max_steps: int = -1) -> Gain:
    module = Gain()
    trainer = Trainer(
        accelerator="cpu", max_epochs=max_epochs, max_steps=max_steps, callbacks=callbacks, num_sanity_val_steps=1,
        logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(one, RunCheckpoint) for one in callbacks),
    )  # fmt: skip
    trainer.fit(module, loader(), loader(), ckpt_path=ckpt_path)
    return module


def saver(folder: Path) -> RunCheckpoint:
    return RunCheckpoint(folder, every_n_train_steps=100, save_last=True, save_top_k=1, enable_version_counter=False)


def averages(trained: list[float]) -> list[float]:
    """Averages after each update; the average begins with the initial weights."""
    found = trained[:1]
    for weight in trained[1:]:
        found.append(DECAY * found[-1] + (1 - DECAY) * weight)
    return found


@pytest.mark.parametrize("place", [0, 1, 2])
def test_other_callbacks_evaluate_the_average_in_any_order(tmp_path, place):
    """Guards against callbacks that synthesise or save with trained or averaged weights depending on their order."""
    probe = Probe(tmp_path / "validating.ckpt")
    others: list[Callback] = [probe, AudioSamples(16000, num_items=1, every_n_steps=1)]
    others.insert(place, EMAWeightAveraging(decay=DECAY))
    module = fit(others, max_epochs=2)
    expected = averages(probe.trained)
    assert abs(expected[-1] - probe.trained[-1]) > 0.05  # otherwise average and weights are too close
    assert probe.validated == pytest.approx([1.0, expected[NUM_BATCHES - 1], expected[-1]], abs=1e-6)
    assert module.heard == pytest.approx(expected, abs=1e-6)
    stored = torch.load(tmp_path / "validating.ckpt", weights_only=True)
    assert float(stored["state_dict"]["gain"]) == pytest.approx(expected[-1], abs=1e-6)
    assert float(stored["current_model_state"]["gain"]) == probe.trained[-1]
    assert float(module.gain.detach()) == pytest.approx(expected[-1], abs=1e-6)


def test_a_validation_alone_has_no_average(tmp_path):
    """Guards against `validate` that fails under a config with an average: the checkpoint already contains it."""
    others = [EMAWeightAveraging(decay=DECAY), AudioSamples(16000, num_items=1, every_n_steps=1)]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(accelerator="cpu", devices=1, callbacks=others, default_root_dir=tmp_path, **quiet)
    module = Gain()
    trainer.validate(module, loader(), verbose=False)
    assert float(module.gain.detach()) == 1.0


@pytest.mark.parametrize("stored_by", [EMAWeightAveraging, lightning.pytorch.callbacks.EMAWeightAveraging])
def test_a_continued_run_goes_on_from_the_trained_weights(tmp_path, stored_by):
    """Guards against a run that ends by its epochs and continues from the average; and against checkpoints of
    Lightning's class that no longer resume (after an end by steps, which it stores correctly)."""
    probe = Probe(tmp_path / "validating.ckpt")
    ours = stored_by is EMAWeightAveraging
    fit([stored_by(decay=DECAY), probe, saver(tmp_path / "one")], 1, max_steps=-1 if ours else NUM_BATCHES)
    stored = torch.load(tmp_path / "one/last.ckpt", weights_only=True)
    assert float(stored["state_dict"]["gain"]) == pytest.approx(averages(probe.trained)[-1], abs=1e-6)
    assert float(stored["current_model_state"]["gain"]) == probe.trained[-1]
    fit([EMAWeightAveraging(decay=DECAY), saver(tmp_path / "one")], 2, tmp_path / "one/last.ckpt")
    fit([EMAWeightAveraging(decay=DECAY), saver(tmp_path / "whole")], 2)
    continued, whole = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("one", "whole"))
    assert continued["global_step"] == whole["global_step"] == 2 * NUM_BATCHES
    for name in ("state_dict", "current_model_state"):
        assert torch.equal(continued[name]["gain"], whole[name]["gain"])


def test_an_average_of_sharded_weights_is_refused():
    """Guards against a crash inside a copy that sharded weights forbid."""
    module = Gain()
    module._device_mesh = object()
    with pytest.raises(ValueError, match="Expected whole weights to average, but got a sharded model"):
        EMAWeightAveraging().setup(Trainer(accelerator="cpu", logger=False, barebones=True), module, "fit")
