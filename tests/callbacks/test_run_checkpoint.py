"""callbacks/run_checkpoint.py, in runs of the whole command."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

import run
from tests.modules import test_stages
from tests.modules.test_stages import JOURNAL

toys = test_stages.toys


def test_the_last_checkpoint_of_a_moved_run_is_the_last(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a `last-v1.ckpt` next to a stale `last.ckpt`, which the next stage would silently read: Lightning
    adds versions if a run is continued in another place."""
    with pytest.raises(ArithmeticError):
        run.main(["fit", "--config", "fit.yaml", "--model.init_args.fail_at_step", "2"])
    shutil.copytree(toys, toys / "elsewhere")
    monkeypatch.chdir(toys / "elsewhere")
    Path("repaired").touch()
    run.main(["fit", "--config", "fit.yaml", "--model.init_args.fail_at_step", "2"])
    assert JOURNAL == [("fit", 0), ("fit", 2)]
    checkpoints = Path("runs/toy/train/checkpoints")
    assert torch.load(checkpoints / "last.ckpt")["global_step"] == 4
    assert not (checkpoints / "last-v1.ckpt").exists()


@pytest.mark.parametrize("end", [["max_steps", "4"], ["max_epochs", "1"]])
def test_the_last_update_is_in_the_last_checkpoint(toys: Path, end: list[str]) -> None:
    """Guards against losing the updates since the last multiple of `every_n_train_steps`."""
    options = [
        "--trainer.callbacks.every_n_train_steps",
        "3",
        "--trainer.max_steps",
        "-1",
        f"--trainer.{end[0]}",
        end[1],
    ]
    run.main(["fit", "--config", "fit.yaml", *options])
    checkpoints = Path("runs/toy/train/checkpoints")
    assert torch.load(checkpoints / "last.ckpt")["global_step"] == 4
    assert len(list(checkpoints.glob("*.ckpt"))) == 2  # that and the newest by its step


def test_a_run_goes_on_behind_its_end_as_one_that_was_longer(toys: Path) -> None:
    """Guards against a last checkpoint that marks the epoch as finished: its data would be read again."""
    longer = ["--trainer.max_steps", "7", "--trainer.callbacks.every_n_train_steps", "10"]
    run.main(["fit", "--config", "fit.yaml", *longer, "--stage.folder", "runs/toy/whole"])
    run.main(["fit", "--config", "fit.yaml", "--trainer.max_steps", "3", *longer[2:]])
    first = "runs/toy/train/checkpoints/last.ckpt"
    run.main(["fit", "--config", "fit.yaml", *longer, "--stage.folder", "runs/toy/second", "--ckpt_path", first])
    whole, second = (torch.load(f"runs/toy/{name}/checkpoints/last.ckpt") for name in ("whole", "second"))
    assert JOURNAL[-1] == ("fit", 3)
    assert whole["global_step"] == second["global_step"] == 7
    assert whole["epoch"] == second["epoch"]
    assert whole["state_dict"]["layer.weight"] == second["state_dict"]["layer.weight"]
    progress = [
        one["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["completed"] for one in (whole, second)
    ]
    assert progress[0] == progress[1]


class Saves(Callback):
    """Appends a line with the step and the micro-batches of each checkpoint to `saves`."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict) -> None:
        with Path("saves").open("a") as file:
            file.write(f"{trainer.global_step} {trainer.fit_loop.epoch_loop.batch_progress.total.ready}\n")


@pytest.mark.parametrize("clock", ["0:0:0", None])
def test_checkpoints_are_saved_on_optimizer_steps_alone(toys: Path, clock: str | None) -> None:
    """Guards against a checkpoint inside an accumulation window, which lacks the gradient so far: after every
    micro-batch with a time interval, and after the first one of a resumed run."""
    options = ["--trainer.accumulate_grad_batches", "4", f"--trainer.callbacks+={__name__}.Saves"]
    times = {"train_time_interval": clock, "every_n_train_steps": None if clock else 1}
    arguments = {"dirpath": "runs/toy/train/checkpoints", "save_last": True, **times}
    saver = json.dumps({"class_path": "callbacks.run_checkpoint.RunCheckpoint", "init_args": arguments})
    command = ["fit", "--config", "fit.yaml", f"--trainer.callbacks=[{saver}]", *options]
    with pytest.raises(ArithmeticError):
        run.main([*command, "--model.init_args.fail_at_step", "2"])
    Path("repaired").touch()
    run.main([*command, "--model.init_args.fail_at_step", "2"])
    saved = {tuple(map(int, line.split())) for line in Path("saves").read_text().splitlines()}
    assert saved == {(step, 4 * step) for step in (1, 2, 3, 4)}


@pytest.mark.parametrize("save_last", ["true", "link"])
def test_a_run_killed_between_its_two_last_files_ends_with_both(toys: Path, save_last: str) -> None:
    """Guards against a finished stage whose `last.ckpt` is of an earlier step, or that never ends: a run that resumes
    after its last step trains nothing, and Lightning calls no hook in which to save."""
    command = ["fit", "--config", "fit.yaml", "--trainer.callbacks.save_last", save_last]
    run.main(command)
    path, last = Path("runs/toy/train/stage_fit.json"), Path("runs/toy/train/checkpoints/last.ckpt")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"finished": False}))
    last.unlink()
    if save_last == "true":
        torch.save({"global_step": 3, "optimizer_states": []}, last)
    run.main(command)
    assert torch.load(last)["global_step"] == 4
    assert json.loads(path.read_text())["finished"]
