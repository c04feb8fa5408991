"""compare_runs: the comparison used by studies/slurm/try_requeue.sh."""

import time
from pathlib import Path

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from studies.slurm.compare_runs import first_difference, read_log, unlogged

NUM_STEPS = 8


def a_run(folder: Path, *attempts: range, changes: dict | None = None, weight: float = 0.5) -> Path:
    """A run whose attempts logged these steps; `changes` are (attempt, step) -> another loss."""
    for attempt, steps in enumerate(attempts):
        name = folder / "tensorboard" / f"{attempt}"
        writer = SummaryWriter(str(name))
        for step in steps:
            loss = float("nan") if step == 2 else 1 / (step + 1)
            writer.add_scalar("train/loss", (changes or {}).get((attempt, step), loss), step)
        writer.close()
        (events,) = name.glob("events.*")
        events.rename(folder / "tensorboard" / f"events.out.tfevents.{attempt}")
    (folder / "checkpoints").mkdir()
    state = {"step": torch.tensor(8.0), "exp_avg": torch.tensor([float("nan"), weight])}
    checkpoint = {"state_dict": {"weight": torch.ones(3)}, "optimizer_states": [{"state": {0: state}}]}
    torch.save(checkpoint | {"global_step": NUM_STEPS, "date": time.time()}, folder / "checkpoints/last.ckpt")
    return folder


@pytest.fixture
def whole(tmp_path) -> Path:
    return a_run(tmp_path / "whole", range(NUM_STEPS))


def test_a_run_that_makes_steps_again_in_the_same_way_is_equal(whole, tmp_path):
    """Guards against a comparison that fails for attempts, NaN, or the step that a killed attempt had saved but not yet
    logged."""
    other = a_run(tmp_path / "other", range(5), range(3, 6), range(7, NUM_STEPS))
    assert first_difference(whole, other) is None and first_difference(other, whole) is None
    assert read_log(other).first_steps == [0, 3, 7]
    assert unlogged(read_log(other), read_log(whole)) == {(6, "train/loss")}


@pytest.mark.parametrize(
    ("attempts", "change", "difference"),
    [
        ((range(5), range(3, 8)), {"changes": {(0, 4): 0.2000001}}, "step 4, train/loss"),
        ((range(5), range(3, 8)), {"changes": {(1, 4): 0.2000001}}, "step 4, train/loss"),
        ((range(3), range(4, 7)), {}, "step 7, train/loss"),
        ((range(3), range(5, 8)), {}, "step 3, train/loss"),
        ((range(3), range(3, 8)), {"weight": 0.5000001}, "optimizer_states.0.state.0.exp_avg"),
    ],
    ids=["before_the_kill", "made_again", "no_end", "a_gap", "optimizer"],
)
def test_the_first_difference_is_named(whole, tmp_path, attempts, change, difference):
    """Guards against "equal" for runs that differ in the last bits, or lack steps."""
    other = a_run(tmp_path / "other", *attempts, **change)
    assert first_difference(whole, other).startswith(difference)
    assert first_difference(other, whole).startswith(difference)
