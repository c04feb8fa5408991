"""Resumed training of low-rank adapters against uninterrupted training."""

from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from benchmarks.lm_overhead import FORMAT, SIZE, ready_batches
from callbacks.run_checkpoint import RunCheckpoint
from modules.lm.adapters import LowRankAdapters, stored_weights
from modules.lm.sampling.noise import training_seed
from modules.lm_module import LMModule

NUM_STEPS, SAVED_STEP, NUM_MICRO_BATCHES = 6, 3, 2


def trained(folder: Path, dropout: float, resume_from: Path | None = None) -> dict[str, torch.Tensor]:
    """Weights after the last step of a command with `seed_everything: 5`."""
    torch.manual_seed(5)
    module = LMModule(
        FORMAT, SIZE, lambda weights: torch.optim.AdamW(weights, lr=0.01),
        adapters=LowRankAdapters(rank=2, dropout=dropout, train_embeddings=True),
    )  # fmt: skip
    batches = ready_batches()[: NUM_STEPS * NUM_MICRO_BATCHES]
    done = SAVED_STEP * NUM_MICRO_BATCHES if resume_from else 0  # ResumableLoader resumes by itself
    trainer = Trainer(
        accelerator="cpu", max_steps=NUM_STEPS, accumulate_grad_batches=NUM_MICRO_BATCHES, logger=False,
        limit_train_batches=len(batches), enable_progress_bar=False, enable_model_summary=False,
        callbacks=[RunCheckpoint(folder, filename="{step}", every_n_train_steps=SAVED_STEP, save_top_k=-1)],
    )  # fmt: skip
    trainer.fit(
        module, DataLoader(batches[done:] + batches[:done], batch_size=None), ckpt_path=resume_from, weights_only=False
    )
    return module.state_dict()


def test_a_resumed_run_draws_the_dropout_of_the_uninterrupted_one(tmp_path):
    """Guards against noise that restarts in a resumed run, or continues from an arbitrary state of the generator."""
    torch.set_num_threads(1)
    whole = trained(tmp_path / "whole", dropout=0.5)
    resumed = trained(tmp_path / "resumed", 0.5, resume_from=tmp_path / f"whole/step={SAVED_STEP}.ckpt")
    assert [name for name, weight in whole.items() if not torch.equal(weight, resumed[name])] == []
    without = trained(tmp_path / "without", dropout=0.0)
    assert any(not torch.equal(weight, without[name]) for name, weight in whole.items()), "no dropout is drawn"


@pytest.mark.parametrize("changed", range(4))
def test_every_batch_step_rank_and_run_has_noise_of_its_own(changed):
    """Guards against the same dropout on all ranks, in all micro-batches, or at every step."""
    seeds = [training_seed(*(number if place == changed else 3 for place in range(4))) for number in range(1000)]
    assert len(set(seeds)) == len(seeds)


def test_frozen_weights_are_halved_where_that_loses_nothing(monkeypatch):
    """Guards against rounded weights, a copy of a whole matrix on the device, and tied weights stored twice."""
    monkeypatch.setattr("modules.lm.adapters.SLICE", 5)
    torch.manual_seed(0)
    exact = torch.randn(4, 3).bfloat16().float()
    finer = exact.clone()
    finer[3, 2] += 2**-20  # in the last slice
    given = {"exact": exact, "tied": exact, "finer": finer, "trained": exact.clone(), "counts": torch.arange(3)}
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "bfloat16", lambda weight: pytest.fail("a copy where the weight is"))
        stored = stored_weights(given, ["trained"])
    halved = [name for name, weight in stored.items() if weight.dtype == torch.bfloat16]
    assert halved == ["exact", "tied"] and stored["exact"] is stored["tied"] and stored["finer"] is finer
    assert all(torch.equal(stored[name].to(weight.dtype), weight) for name, weight in given.items())
    assert stored_weights({"exact": exact}, [])["exact"].shape == exact.shape
