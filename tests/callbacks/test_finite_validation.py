"""NaN in validation: the logged value against a mean by hand, and when the run ends."""

import math

import pytest
import torch
from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from callbacks.finite_validation import FiniteValidation
from datamodules.packing import token_batch
from modules.batches import TokenBatch
from modules.lm_module import LMModule
from tests.toys.lm_toys import FORMAT, SIZE


def batch_of(text: str, num_codes: int) -> TokenBatch:
    """One document of the first of two tasks."""
    return token_batch([[FORMAT.example_tokens(text, list(range(num_codes)))]], 64, [[0]])


class Data(LightningDataModule):
    """Three validation batches with 2, 9 and 5 codes; only the second contains the letter q."""

    frame_rate, task_names = 50.0, ["one", "other"]

    def train_dataloader(self) -> DataLoader:
        return DataLoader([batch_of("one", 4)] * 8, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader([batch_of("one", 2), batch_of("q", 9), batch_of("two", 5)], batch_size=None)


class Breaking(LMModule):
    """Its embedding of q is NaN in the validations after these steps."""

    def __init__(self, broken_after: set[int]) -> None:
        super().__init__(FORMAT, SIZE, optimizer=lambda weights: torch.optim.SGD(weights, lr=0.0))
        self.broken_after = broken_after

    def on_validation_epoch_start(self) -> None:
        (token,) = FORMAT.tokenizer.encode("q")
        with torch.no_grad():
            weight_VC = self.network.llama.model.embed_tokens.weight
            weight_VC[token] = math.nan if self.trainer.global_step in self.broken_after else 0.0


def fit(callback: FiniteValidation, broken_after: set[int]) -> tuple[Breaking, Trainer]:
    """Up to eight steps with a validation after each."""
    torch.manual_seed(0)
    module = Breaking(broken_after)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, val_check_interval=1, callbacks=[callback], num_sanity_val_steps=0,
        logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=Data())
    return module, trainer


def test_three_broken_validations_in_a_row_end_the_run(tmp_path):
    """Guards against NaN dropped by an average, a run that trains on with broken weights, one that ends at the first
    NaN or as if it had finished, and a count that a resumed run forgets."""
    with pytest.raises(RuntimeError, match=r"but got .*'val/loss': nan.* at step 6, in 3 validations in a row"):
        fit(FiniteValidation(), {1, 2, 4, 5, 6})
    resumed = FiniteValidation(max_in_a_row=2)
    _, trainer = fit(FiniteValidation(), {8})
    assert math.isnan(trainer.callback_metrics["val/loss"])
    assert math.isnan(trainer.callback_metrics["val/bits_per_second_of_audio"])
    trainer.save_checkpoint(tmp_path / "broken.ckpt")
    again = Trainer(
        accelerator="cpu", max_epochs=2, val_check_interval=1, callbacks=[resumed], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="at step 9, in 2 validations in a row"):
        again.fit(Breaking({9}), datamodule=Data(), ckpt_path=tmp_path / "broken.ckpt", weights_only=False)


def test_a_task_without_targets_is_no_failure():
    """Guards against a run that ends because a task has no document in validation, and a mean over batches."""
    callback = FiniteValidation()
    module, trainer = fit(callback, set())
    assert callback.num_in_a_row == 0 and trainer.global_step == 8
    metrics = trainer.callback_metrics
    assert math.isnan(metrics["val/loss_other"])
    with torch.no_grad():
        losses = [module.network(batch) for batch in Data().val_dataloader()]
    expected = sum(float(one.total) for one in losses) / sum(int(one.num_targets) for one in losses)
    assert float(metrics["val/loss"]) == pytest.approx(expected, rel=1e-6)
    assert float(metrics["val/loss_one"]) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="`max_in_a_row` to be at least 1, but got 0"):
        FiniteValidation(max_in_a_row=0)
