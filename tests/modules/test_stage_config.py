"""The part of a config that a stage's marker compares, and which ends of a training finish a stage."""

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

import run
from modules.stage_config import changed_config
from tests.modules import test_stages
from tests.modules.test_stages import JOURNAL, read_marker

toys = test_stages.toys
FIT = ["fit", "--config", "fit.yaml"]


def contents(folder: Path) -> dict[str, str]:
    """Hash of each file, by path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def superseded() -> list[Path]:
    return list(Path("runs/toy").glob("*.superseded-*"))


# ------------------------------------------------------------------------------------------------ what is no change


def test_a_marker_of_the_demo_as_it_was_first_written_stays_valid(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Guards against a new argument, here or in Lightning, that moves every trained codec aside: the marker was written
    by an earlier version, whose demo had the discriminators of configs/voice and fewer updates."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["run.py"])
    Path("runs/demo/codec/checkpoints").mkdir(parents=True)
    shutil.copy(repository / "tests/demo_codec_stage_fit.json", "runs/demo/codec/stage_fit.json")
    Path("runs/demo/codec/checkpoints/last.ckpt").touch()
    then = ["--model", str(repository / "configs/voice/codec_model.yaml"), "--trainer.max_steps", "3000"]
    run.main(["fit", "--config", str(repository / "configs/demo/codec.yaml"), *then, "--precision", "null"])
    assert "codec: finished earlier" in capsys.readouterr().out


def test_a_new_argument_that_holds_its_default_is_no_change(toys: Path, capsys: pytest.CaptureFixture) -> None:
    """Guards against moving a trained model aside after `git pull`, because of a new argument of the module, of a
    callback in a list, or of the Trainer; and against ignoring a new argument that has an effect."""
    run.main(FIT)
    path = Path("runs/toy/train/stage_fit.json")

    def forget(marker: dict) -> dict:
        """Config as written by a version without these arguments."""
        config = marker["config"]
        del config["model"]["init_args"]["width"]
        del config["trainer"]["callbacks"][0]["init_args"]["save_weights_only"]
        del config["trainer"]["deterministic"], config["flush_denormals"]
        return marker | {"hash": "of another version"}

    path.write_text(json.dumps(forget(read_marker("train", "fit"))))
    run.main(FIT)
    assert JOURNAL == [("fit", 0)] and not superseded()
    assert "finished earlier" in capsys.readouterr().out
    with pytest.raises(RuntimeError):  # from the toy's data, which has one column
        run.main([*FIT, "--model.init_args.width", "2"])
    assert "changed since: model.init_args.width" in capsys.readouterr().out


def test_the_machine_loggers_and_displays_are_no_change(toys: Path) -> None:
    """Guards against a run begun outside SLURM that starts over inside, and one that is moved to other devices."""
    run.main(FIT)
    others = [
        ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.num_nodes", "2"],
        ["--trainer.plugins+=lightning.pytorch.plugins.environments.SLURMEnvironment"],
        ["--trainer.logger", "lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir", "x"],
        ["--trainer.callbacks+=lightning.pytorch.callbacks.TQDMProgressBar", "--trainer.enable_progress_bar", "true"],
        ["--trainer.max_time", "00:01:00:00", "--num_threads", "3", "--trainer.profiler", "simple"],
    ]
    for options in others:
        run.main([*FIT, *options])
        assert JOURNAL == [("fit", 0)] and not superseded(), options


def test_what_is_compared() -> None:
    """Guards against ignoring a change of the result: precision, the size of a step, a callback that affects training,
    and a key of an older version that was switched on; and against hours of training that start over to be heard."""
    average = {"class_path": "callbacks.weight_averaging.EMAWeightAveraging", "init_args": {"decay": 0.9}}
    config = {"trainer": {"precision": "32", "accumulate_grad_batches": 1, "callbacks": [], "devices": 1}}
    for change in ({"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}, {"callbacks": [average]}):
        (name,) = change
        assert changed_config(config, {"trainer": config["trainer"] | change}, dict) == [f"trainer.{name}"]
    automatic = {"precision": "auto", "trainer": config["trainer"] | {"precision": None}}
    for begun in (config, {"trainer": config["trainer"] | {"precision": "bf16-mixed"}}):
        assert changed_config(begun, automatic, dict) == []
        assert changed_config(automatic, begun, dict) == ["precision", "trainer.precision"]
    slower = {**automatic, "trainer": {**automatic["trainer"], "accumulate_grad_batches": 2}}
    assert changed_config(config, slower, dict) == ["trainer.accumulate_grad_batches"]
    heard = {"class_path": "callbacks.training_speech.TrainingSpeech", "init_args": {"hours": [1.0]}}
    for change in ({"devices": 8}, {"callbacks": [heard]}):
        assert changed_config(config, {"trainer": config["trainer"] | change}, dict) == []
    moved = [average | {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging"}]
    new = {"trainer": config["trainer"] | {"callbacks": [average]}}
    assert changed_config({"trainer": config["trainer"] | {"callbacks": moved}}, new, dict) == []

    def strict(config: dict) -> dict:
        if "gone" in config:
            raise ValueError("no such key")
        return config

    assert changed_config(config | {"gone": None}, config, strict) == []
    assert changed_config(config | {"gone": 3}, config, strict) == ["gone"]


# ------------------------------------------------------------------------------------------------------- what is an end


@pytest.mark.parametrize(
    "end",
    [
        ["--trainer.max_steps", "3"],
        ["--trainer.max_steps", "-1", "--trainer.max_epochs", "1"],
        [
            "--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping",
            "--trainer.callbacks.monitor=loss",
            "--trainer.callbacks.stopping_threshold=1e9",
            "--trainer.callbacks.check_on_train_epoch_end=true",
            "--trainer.max_epochs=50",
            "--trainer.max_steps=-1",
        ],
    ],
    ids=["steps", "epochs", "early stopping"],
)
def test_a_training_that_ends_by_itself_finishes_its_stage(toys: Path, end: list[str]) -> None:
    """Guards against training a finished run again."""
    run.main([*FIT, *end])
    assert read_marker("train", "fit")["finished"]


def test_a_limit_of_time_does_not_finish_a_stage(
    toys: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against taking a model of few steps for the trained one, and against the same command stopping at once,
    because the time of the first call counts again."""
    saved = Path("runs/toy/train/checkpoints/last.ckpt")
    with monkeypatch.context() as clock:
        clock.setattr(Timer, "time_elapsed", lambda *_: 1e9 * saved.exists())  # over once a step is saved
        run.main([*FIT, "--trainer.max_time", "00:00:00:09"])
    marker = read_marker("train", "fit")
    assert not marker["finished"] and marker["attempt_start"] == 0
    assert "train: unfinished (stopped at step" in capsys.readouterr().out
    run.main([*FIT, "--trainer.max_time", "00:01:00:00"])
    assert read_marker("train", "fit")["finished"] and not superseded()
    assert torch.load(saved)["global_step"] == 4
    assert 0 < JOURNAL[-1][1] < 4, "the second run goes on where the first stopped"


@pytest.mark.parametrize("trained", [False, True])
def test_a_dry_run_leaves_the_stage_alone(toys: Path, trained: bool) -> None:
    """Guards against `fast_dev_run`, which moved the trained model aside, and against `--print_config` and `--stage
    null` that write into the folder of a fit."""
    if trained:
        run.main(FIT)
    before = contents(Path("runs"))
    run.main([*FIT, "--trainer.fast_dev_run", "true"])
    run.main([*FIT, "--stage", "null", "--trainer.callbacks.dirpath", "elsewhere"])
    with pytest.raises(SystemExit):
        run.main([*FIT, "--print_config"])
    after = contents(Path("runs"))
    own = {name: value for name, value in after.items() if name.startswith("runs/toy/train/")}
    assert own == {name: value for name, value in before.items() if name.startswith("runs/toy/train/")}
    assert not superseded()
    assert [("fit", 0)] * (3 if trained else 2) == JOURNAL
    run.main(FIT)
    assert len(JOURNAL) == 3  # the dry runs finished nothing, and broke nothing


# -------------------------------------------------------------------------------------------------------------- Ctrl-C


class Interrupt(Callback):
    """Sends this process SIGINT in the first micro-batch of the step after `step`, once."""

    def __init__(self, step: int = 2) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if trainer.global_step == self.step and not Path("interrupted").exists():
            Path("interrupted").touch()
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_stops_after_the_optimizer_step_and_saves_it(toys: Path, capfd: pytest.CaptureFixture) -> None:
    """Guards against a Ctrl-C that loses the steps since the last checkpoint, stops inside an accumulation window, or
    counts as the end of the training; and the resumed run equals the uninterrupted one."""
    options = ["--trainer.accumulate_grad_batches", "2", "--trainer.callbacks.every_n_train_steps", "100"]
    run.main([*FIT, *options, "--stage.folder", "runs/toy/whole"])
    interrupted = [*FIT, *options, f"--trainer.callbacks+={__name__}.Interrupt"]
    with pytest.raises(SystemExit) as end:
        run.main(interrupted)
    assert end.value.code == 130
    assert "Ctrl-C again: at once" in capfd.readouterr().err
    assert not read_marker("train", "fit")["finished"]
    assert torch.load("runs/toy/train/checkpoints/last.ckpt")["global_step"] == 3
    with pytest.raises(KeyboardInterrupt):  # as before the training
        os.kill(os.getpid(), signal.SIGINT)
    run.main(interrupted)
    whole, continued = (torch.load(f"runs/toy/{name}/checkpoints/last.ckpt") for name in ("whole", "train"))
    assert JOURNAL[-1] == ("fit", 3) and whole["global_step"] == continued["global_step"] == 4
    assert torch.equal(whole["state_dict"]["layer.weight"], continued["state_dict"]["layer.weight"])
