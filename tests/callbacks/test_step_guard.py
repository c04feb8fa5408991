"""Skipped steps compared with a run without the bad batches."""

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from callbacks.durable_checkpoints import DurableCheckpointIO
from callbacks.step_guard import StepGuard, gradient_norm

GOOD = [1.0, 2.0, -1.0, 0.5, 1.5, -2.0]


class Line(LightningModule):
    """A linear model; a batch is the slope of the loss, or a value that breaks it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def training_step(self, batch: torch.Tensor, batch_index: int) -> torch.Tensor:
        return (self.layer(torch.ones(1, 3)) * batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.1)


def train(slopes, guard):
    torch.manual_seed(0)
    module = Line()
    trainer = Trainer(
        accelerator="cpu", max_steps=len(slopes), logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, gradient_clip_val=5.0, callbacks=[guard], plugins=[DurableCheckpointIO()],
    )  # fmt: skip
    trainer.fit(module, DataLoader(torch.tensor(slopes), batch_size=1))
    return module, trainer


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e6])
def test_a_skipped_step_changes_nothing(bad):
    """Guards against weight decay, moments or a step count that change although the gradient was discarded."""
    slopes = [*GOOD[:3], bad, bad, *GOOD[3:]]
    guard = StepGuard(max_skipped_in_a_row=2, num_warmup_steps=2)
    module, trainer = train(slopes, guard)
    reference, plain = train(GOOD, StepGuard())
    for name, weight in reference.state_dict().items():
        assert torch.equal(module.state_dict()[name], weight)
    for states in zip(*(run.optimizers[0].state.values() for run in (trainer, plain)), strict=True):
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert guard.num_skipped == 2 and guard.num_skipped_in_a_row == 0
    assert trainer.callback_metrics["train/num_skipped_steps"] == 2


def test_too_many_in_a_row_end_the_run_with_the_last_good_weights(tmp_path):
    """Guards against a run that continues without learning, and against a checkpoint of broken weights."""
    nan = float("nan")
    slopes = [*GOOD[:3], nan, GOOD[3], nan, nan, nan, *GOOD]
    torch.manual_seed(0)
    module, guard = Line(), StepGuard(max_skipped_in_a_row=2)
    trainer = Trainer(
        accelerator="cpu", max_steps=50, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, gradient_clip_val=5.0, callbacks=[guard],
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="but got 3 others in a row until step"):
        trainer.fit(module, DataLoader(torch.tensor(slopes), batch_size=1))
    reference, _ = train(GOOD[:4], StepGuard())
    for name, weight in reference.state_dict().items():
        assert torch.equal(module.state_dict()[name], weight)
    assert guard.num_skipped == 4


def test_the_guard_s_memory_is_part_of_the_checkpoint(tmp_path):
    """Guards against a resumed run that accepts steps that the uninterrupted one skipped."""
    guard = StepGuard(num_warmup_steps=2)
    _, trainer = train([*GOOD, float("nan")], guard)
    trainer.save_checkpoint(tmp_path / "deep/guard.ckpt")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["guard.ckpt"]
    fresh = StepGuard(num_warmup_steps=2)
    torch.manual_seed(1)
    again = Trainer(
        accelerator="cpu", max_steps=8, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[fresh],
    )  # fmt: skip
    again.fit(Line(), DataLoader(torch.tensor([1e6] * 8), batch_size=1), ckpt_path=tmp_path / "deep/guard.ckpt")
    assert fresh.num_skipped == guard.num_skipped + 1 == 2
    assert fresh.mean_norm == guard.mean_norm > 0


def test_the_norm_is_that_of_all_gradients():
    """Guards against a norm of the first group or of the largest tensor."""
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in ((4, 3), (5,), (2,))]
    for weight in weights[:2]:
        weight.grad = torch.randn_like(weight)
    flat = torch.cat([weight.grad.flatten() for weight in weights[:2]])
    assert gradient_norm(weights) == pytest.approx(float(flat.square().sum().sqrt()), rel=1e-6)
    assert gradient_norm(weights[2:]) == 0
    for arguments in ({"max_skipped_in_a_row": 0}, {"max_norm_ratio": 1.0}):
        with pytest.raises(ValueError, match="Expected `max_"):
            StepGuard(**arguments)
