"""Stages: finished ones are skipped, unfinished ones resume, changed ones run again, and nothing is lost."""

import json
import os
import shlex
import sys
import types
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch.utils.data import DataLoader

import run
from datamodules.shards.shards import ShardWriter
from modules.stage_config import changed_keys
from modules.stages import Stage, StageFinished, StageSettings, content_hash, newest_checkpoint, next_line

# Actions of the toy's runs, in order: ("fit", first step, last step) or ("predict", value read).
JOURNAL: list[tuple] = []


class ToyModule(LightningModule):
    """One weight; `fail_at_step` breaks the training; predict_step copies `source` to `target`, doubled."""

    def __init__(
        self, rate: float = 0.1, fail_at_step: int | None = None, source: str = "", target: str = "", width: int = 1
    ) -> None:
        super().__init__()
        if rate <= 0:
            raise ValueError(f"Expected `rate` to be above 0, but got {rate}.")
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(width, 1)

    def on_train_start(self) -> None:
        JOURNAL.append(("fit", self.global_step))

    def training_step(self, batch: torch.Tensor, batch_index: int) -> torch.Tensor:
        if self.global_step == self.hparams.fail_at_step and not Path("repaired").exists():
            raise ArithmeticError("the toy breaks here")
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        return loss

    def predict_step(self, batch: torch.Tensor, batch_index: int) -> None:
        number = int(Path(self.hparams.source).read_text())
        JOURNAL.append(("predict", number))
        Path(self.hparams.target).write_text(str(2 * number))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.rate)


class ToyData(LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.ones(4, 1))

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(torch.ones(1, 1))


TRAINER = """
trainer:
  accelerator: cpu
  devices: 1
  max_steps: 4
  enable_progress_bar: false
  enable_model_summary: false
  default_root_dir: ${stage.folder}
"""
FIT = f"""{TRAINER}
  logger: false
  callbacks:
    - class_path: callbacks.run_checkpoint.RunCheckpoint
      init_args:
        dirpath: ${{stage.folder}}/checkpoints
        every_n_train_steps: 1
        save_last: true
        enable_version_counter: false
model: {{class_path: {__name__}.ToyModule}}
data: {{class_path: {__name__}.ToyData}}
stage: {{folder: runs/toy/train, outputs: ["${{stage.folder}}/checkpoints/last.ckpt"]}}
ckpt_path: last
"""
PREDICT = f"""{TRAINER}
  logger: false
model: {{class_path: {__name__}.ToyModule, init_args: {{source: INPUT, target: "${{stage.outputs[0]}}"}}}}
data: {{class_path: {__name__}.ToyData}}
stage: {{folder: runs/toy/FOLDER, inputs: [INPUT], outputs: ["${{stage.folder}}/number.txt"]}}
return_predictions: false
"""


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the configs of a fit and of two steps, of which the second reads the first one's output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["run.py"])
    JOURNAL.clear()
    Path("fit.yaml").write_text(FIT)
    Path("first.yaml").write_text(PREDICT.replace("INPUT", "given.txt").replace("FOLDER", "first"))
    Path("second.yaml").write_text(PREDICT.replace("INPUT", "runs/toy/first/number.txt").replace("FOLDER", "second"))
    Path("given.txt").write_text("3")
    return tmp_path


def read_marker(folder: str, subcommand: str) -> dict:
    return json.loads(Path(f"runs/toy/{folder}/stage_{subcommand}.json").read_text())


def test_a_finished_stage_is_skipped_and_a_changed_value_runs_again(toys: Path, capsys: pytest.CaptureFixture) -> None:
    """Guards against training again without a change, and against reusing the results of another config."""
    run.main(["fit", "--config", "fit.yaml"])
    assert JOURNAL == [("fit", 0)]
    marker = read_marker("train", "fit")
    assert marker["finished"]
    assert marker["seconds"] > 0
    assert 0.05 < marker["peak_gb"] < 50

    run.main(["fit", "--config", "fit.yaml", "--num_threads", "1"])  # speed does not affect the result
    assert JOURNAL == [("fit", 0)]
    assert "train: finished earlier (runs/toy/train, " in capsys.readouterr().out

    run.main(["fit", "--config", "fit.yaml", "--model.init_args.rate", "0.2"])
    assert JOURNAL == [("fit", 0), ("fit", 0)]  # from the first step: not resumed from the other config's checkpoint
    assert "changed since: model.init_args.rate" in capsys.readouterr().out
    kept = toys / f"runs/toy/train.superseded-{marker['hash'][:8]}"
    assert json.loads((kept / "stage_fit.json").read_text()) == marker
    assert (kept / "checkpoints/last.ckpt").is_file()


def test_changed_input_content_runs_only_what_depends_on_it(toys: Path) -> None:
    """Guards against stale results behind an unchanged file name, and against a rerun of everything for one change."""

    def run_all() -> list[tuple]:
        JOURNAL.clear()
        run.main(["fit", "--config", "fit.yaml"])
        run.main(["predict", "--config", "first.yaml"])
        run.main(["predict", "--config", "second.yaml"])
        return list(JOURNAL)

    assert run_all() == [("fit", 0), ("predict", 3), ("predict", 6)]
    assert run_all() == []
    os.utime("given.txt")  # touched, but the same content
    assert run_all() == []
    Path("given.txt").write_text("5")
    assert run_all() == [("predict", 5), ("predict", 10)]
    Path("runs/toy/second/number.txt").unlink()  # a missing product is made again, and only that one
    assert run_all() == [("predict", 10)]


def test_a_failed_run_is_not_finished_and_resumes(toys: Path, capsys: pytest.CaptureFixture) -> None:
    """Guards against a marker after a crash, a restart from step 0 after one, and lost seconds of the first attempt."""
    command = ["fit", "--config", "fit.yaml", "--model.init_args.fail_at_step", "2"]
    with pytest.raises(ArithmeticError, match="the toy breaks here"):  # a bug keeps its traceback
        run.main(command)
    marker = read_marker("train", "fit")
    assert not marker["finished"]
    lost = 100.0
    marker["attempt_start"] -= lost  # as if it had trained for longer
    Path("runs/toy/train/stage_fit.json").write_text(json.dumps(marker))

    Path("repaired").touch()
    run.main(command)
    assert JOURNAL == [("fit", 0), ("fit", 2)]
    assert "train: unfinished, fit resumes" in capsys.readouterr().out
    marker = read_marker("train", "fit")
    assert marker["finished"]
    assert lost < marker["seconds"] < lost + 60
    assert not list(Path("runs/toy").glob("*.superseded-*"))


def test_the_first_attempt_warns_of_no_missing_checkpoint(toys: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Guards against Lightning's warning that `last` is missing at every first start."""
    run.main(["fit", "--config", "fit.yaml"])
    assert not [warning for warning in recwarn if "checkpoint available" in str(warning.message)]


def test_damaged_checkpoints_are_passed_over(tmp_path: Path) -> None:
    """Guards against resuming from a truncated file, and against a silent restart because of one."""
    assert newest_checkpoint([tmp_path]) is None
    torch.save({"global_step": 1, "optimizer_states": []}, tmp_path / "step=1.ckpt")
    whole = (tmp_path / "step=1.ckpt").read_bytes()
    (tmp_path / "step=2.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "last.ckpt").symlink_to("gone.ckpt")
    os.utime(tmp_path / "step=1.ckpt", (1, 1))
    assert newest_checkpoint([tmp_path, tmp_path / "none"]) == tmp_path / "step=1.ckpt"
    (tmp_path / "step=1.ckpt").unlink()
    with pytest.raises(ValueError, match="Expected a whole checkpoint to resume from"):
        newest_checkpoint([tmp_path])


def test_a_resume_takes_the_largest_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against resuming from a file that was copied or touched last, has only weights, or needs a removed
    class."""
    for name, step in (("step=3.ckpt", 3), ("last.ckpt", 3), ("old.ckpt", 1)):
        torch.save({"global_step": step, "optimizer_states": []}, tmp_path / name)
    torch.save({"global_step": 9}, tmp_path / "weights.ckpt")
    for age, name in enumerate(("old.ckpt", "step=3.ckpt", "last.ckpt", "weights.ckpt")):
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    gone = types.ModuleType("gone")
    exec("class Gone: pass", gone.__dict__)
    monkeypatch.setitem(sys.modules, "gone", gone)
    torch.save({"global_step": 8, "optimizer_states": [], "class": gone.Gone()}, tmp_path / "older.ckpt")
    monkeypatch.delitem(sys.modules, "gone")
    assert newest_checkpoint([tmp_path]) == tmp_path / "last.ckpt"
    (tmp_path / "shards.ckpt").mkdir()
    torch.save({"global_step": 4}, tmp_path / "shards.ckpt/meta.pt")
    assert newest_checkpoint([tmp_path]) == tmp_path / "shards.ckpt"


def test_a_folder_without_a_marker_is_moved_aside(toys: Path) -> None:
    """Guards against mixing unknown files into a run, and against deleting them."""
    Path("runs/toy/first").mkdir(parents=True)
    Path("runs/toy/first/number.txt").write_text("precious")
    run.main(["predict", "--config", "first.yaml"])
    assert Path("runs/toy/first.superseded-unmarked/number.txt").read_text() == "precious"
    assert Path("runs/toy/first/number.txt").read_text() == "6"


def test_user_errors_are_one_line(toys: Path, capsys: pytest.CaptureFixture) -> None:
    """Guards against a long usage message or traceback for a typing error, and against a folder of another stage."""
    commands = {
        "fit --config fit.yaml --trainer.max_stepz 3": "max_stepz",
        "fit --config none.yaml": "none.yaml",
        "fit --config fit.yaml --model.init_args.rat 3": "rat",
        "fit --config fit.yaml --model.init_args.rate -1": "Expected `rate` to be above 0, but got -1.0.",
        "fit --config fit.yaml --stage.folder ${nothing.here}": "nothing.here",
        "fit --config fit.yaml --stage.folder ..": "Expected `stage.folder` to be a folder of its own",
        "fit --config fit.yaml --stage.folder runs": "Expected `stage.folder` to belong to one stage",
        "predict --config second.yaml --stage.inputs [none.txt]": "none.txt",
        "predict --config first.yaml --ckpt_path none.ckpt": "none.ckpt",
    }
    Path("runs/other").mkdir(parents=True)
    Path("runs/other/stage_test.json").touch()
    for command, expected in commands.items():
        with pytest.raises(SystemExit) as stop:
            run.main(command.split())
        errors = capsys.readouterr().err
        assert stop.value.code == 2, command
        assert expected in errors, command
        assert errors.startswith("error: "), command
        assert "Traceback" not in errors, command
        assert "usage:" not in errors, command


def test_a_folder_of_shards_counts_by_its_index(tmp_path: Path) -> None:
    """Guards against hashing gigabytes of audio at every start, and against missing a change of the index."""
    (tmp_path / "shards").mkdir()
    for name in ("index.json", "index.npz", "000.tar"):
        (tmp_path / "shards" / name).write_text(name)
    before = content_hash(tmp_path / "shards")
    (tmp_path / "shards/000.tar").write_text("not read")
    assert content_hash(tmp_path / "shards") == before
    (tmp_path / "shards/index.npz").write_text("changed")
    assert content_hash(tmp_path / "shards") != before

    (tmp_path / "wavs").mkdir()
    (tmp_path / "wavs/a.wav").write_text("a")
    before = content_hash(tmp_path / "wavs")
    (tmp_path / "wavs/a.wav").rename(tmp_path / "wavs/b.wav")
    assert content_hash(tmp_path / "wavs") != before


def test_changed_keys_names_every_difference() -> None:
    """Guards against a line without the reason, or with a wrong one, for running again."""
    old = {"a": {"b": 1, "c": [1, 2]}, "d": None, "e": {"f": 1}}
    new = {"a": {"b": 1, "c": [1, 3]}, "e": 2, "g": 0}
    assert changed_keys(old, new) == ["a.c", "d", "e", "g"]
    assert changed_keys(old, old) == []


def test_other_ranks_wait_for_rank_0(tmp_path: Path) -> None:
    """Guards against a second rank that moves the folder too, trains in the old one, or runs where rank 0 skips."""
    settings = StageSettings(tmp_path / "train")
    first, second = (Stage(settings, "fit", {"rate": 1}) for _ in range(2))
    with pytest.raises(TimeoutError, match="Expected rank 0 to write"):
        second.follow(timeout=0)
    first.begin()
    second.follow(timeout=0)
    first.finish()
    first.release()
    with pytest.raises(StageFinished):
        second.follow(timeout=0)
    with pytest.raises(TimeoutError):  # the marker of another config is not the awaited one
        Stage(settings, "fit", {"rate": 2}).follow(timeout=0)


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    """Guards against a second run that moves the folder of a running one aside, or writes into it."""
    first, second = (Stage(StageSettings(tmp_path / "train"), "fit", {"rate": rate}) for rate in (1, 2))
    first.begin()
    with pytest.raises(ValueError, match="Expected no other run in"):
        second.begin()
    assert json.loads(first.marker_path.read_text())["hash"] == first.marker.hash
    first.release()  # as when its process is killed
    second.begin()
    assert json.loads(second.marker_path.read_text())["hash"] == second.marker.hash
    second.release()


def test_the_text_of_the_next_command_is_one_that_a_model_of_the_shards_knows(tmp_path: Path) -> None:
    """Guards against a command with a text of digits, which are spoken as words, a long one, and one that a shell
    takes apart."""
    settings = StageSettings(tmp_path, [tmp_path / "none", tmp_path / "train"], next="say {text}")
    assert shlex.split(next_line(settings)) == ["say", "Hello."]
    assert next_line(StageSettings(tmp_path)) == ""
    words = 'it\'s "so" $far; ' * 5
    with ShardWriter(tmp_path / "train", "tokens", {}) as writer:
        for number, text in enumerate(["take 1", "  ", words, "another"]):
            writer.write(f"k{number}", {"json": json.dumps({"text": text}).encode()}, 1, text)
    assert shlex.split(next_line(settings)) == ["say", " ".join(words.split()[:12])]
