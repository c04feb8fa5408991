"""Failing commands: one line for user errors, the user's own frames for a crash in the user's code, a traceback for the
rest; and the checks before a run begins."""

import errno
import importlib.util
import pickle
import re
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader, Dataset

import run
from callbacks.durable_checkpoints import DurableCheckpointIO
from modules.codec.formats.checkpoints import main as codec_main
from modules.command.checks import check_subcommand
from modules.command.errors import REPOSITORY, failure
from modules.evaluation.opus_and_codec2 import Opus
from modules.evaluation.transformers_codec import TransformersCodec
from modules.lm.checkpoints import main as lm_main
from modules.lm.pretrained import PretrainedNetwork, load_pretrained
from modules.lm.text.huggingface_tokenizer import HuggingFaceTokenizer
from modules.stages import made_by
from modules.tokens import TokenSpace
from modules.verifiers.recognisers.whisper import FasterWhisper
from tests.modules.test_stages import toys  # noqa: F401

FIT = "fit --config fit.yaml"
OWN_CALLBACK = """
from lightning.pytorch import Callback

class Broken(Callback):
    def __init__(self, at: str = "start"):
        self.at = at
        if at == "init":
            raise ValueError("no such room")

    def on_fit_start(self, trainer, module):
        {}["missing"]
"""


class OtherModule(LightningModule):
    """Unrelated to the toy."""


def stopped(command: str, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """The exit status of a command, and its stderr."""
    with pytest.raises(SystemExit) as stop:
        run.main(command.split())
    return stop.value.code, capsys.readouterr().err


def write_checkpoints() -> None:
    """Write files and folders that are not checkpoints of the toy."""
    Path("pickled.ckpt").write_bytes(pickle.dumps({"state_dict": {}, "path": Path("x")}))
    torch.save({"state_dict": {}, "path": Path("x")}, "unsafe.ckpt")
    Path("cut.ckpt").write_bytes(Path("unsafe.ckpt").read_bytes()[:300])
    torch.save([torch.zeros(1)], "list.ckpt")
    torch.save({"state_dict": {}, "hyper_parameters": {"_class_path": f"{__name__}.OtherModule"}}, "other.ckpt")
    torch.save({"state_dict": {}}, "plain.ckpt")
    Path("weights.safetensors").write_bytes(b"\0" * 8)
    Path("folder").mkdir()
    Path("folder/one.ckpt").touch()


def test_user_errors_are_printed_as_one_line(toys: Path, capsys: pytest.CaptureFixture) -> None:  # noqa: F811
    """Guards against a long traceback for a wrong config, checkpoint or folder, and against a stage that is begun, or
    moved aside, before its command is known to be valid."""
    write_checkpoints()
    Path("a_file").touch()
    commands = {
        f"{FIT} --ckpt_path best": "but got `best`, which is known only to the process that trained",
        f"{FIT} --ckpt_path runs/demo/lm/last.ckpt": "configs/demo/lm.yaml makes what is there.",
        f"{FIT} --ckpt_path pickled.ckpt": "`pickled.ckpt` is none, or is damaged",
        f"{FIT} --ckpt_path cut.ckpt": "`cut.ckpt` is none, or is damaged",
        f"{FIT} --ckpt_path list.ckpt": "`list.ckpt` is none, or is damaged",
        f"{FIT} --ckpt_path unsafe.ckpt": "`unsafe.ckpt` holds more than tensors and plain data",
        f"{FIT} --ckpt_path plain.ckpt --stage.folder runs/toy/plain": "without its version: weights alone?",
        f"{FIT} --ckpt_path weights.safetensors": "`weights.safetensors` holds weights alone",
        f"{FIT} --ckpt_path folder": "the folder `folder`. Name one: folder/one.ckpt.",
        f"{FIT} --ckpt_path other.ckpt": "of ToyModule, which this config runs, but `other.ckpt` is one of OtherModule",
        "test --config fit.yaml": "for test, but got one whose data, ToyData, serves fit and predict alone",
        f"{FIT} --trainer.logger lightning.pytorch.loggers.WandbLogger": "pip install -U 'wandb",
        f"{FIT} --stage.folder a_file/run": "`a_file`, but got: File exists. A file stands where a folder is wanted",
        f"{FIT} --trainer.devices 0": "value is not a valid input using cpu accelerator",
        "predict --config fit.yaml --stage.folder runs/toy/second": "Expected a checkpoint to predict, but got none in",
        "predict --config first.yaml --ckpt_path last": "Expected a checkpoint to predict, but got a config that saves",
    }
    if importlib.util.find_spec("wandb"):
        commands = {command: expected for command, expected in commands.items() if "Wandb" not in command}
    for command, expected in commands.items():
        status, errors = stopped(command, capsys)
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert status == 2 and "Traceback" not in errors, command
        assert len(lines) == 1 and expected in lines[0], (command, errors)
        assert "--ckpt_path" not in command or command.startswith("predict") or not Path("runs/toy/train").exists()


def test_a_checkpoint_of_a_larger_model_is_an_error_of_one_line(toys: Path, capsys: pytest.CaptureFixture) -> None:  # noqa: F811
    """Guards against torch's list of every tensor's shape under a traceback."""
    run.main(FIT.split())
    Path("runs/toy/train/checkpoints").rename("copy")
    wider = "predict --config fit.yaml --stage null --model.init_args.width 2 --trainer.callbacks.dirpath copy"
    status, errors = stopped(wider, capsys)
    assert status == 2 and "error: Expected a checkpoint that fits the model, but got: size mismatch" in errors


def test_a_class_of_the_users_own_is_shown_with_its_place(
    toys: Path,  # noqa: F811
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards against an error without a line of the user's file, or below the frames of Lightning."""
    Path("own_callback.py").write_text(OWN_CALLBACK)
    monkeypatch.syspath_prepend(str(toys))
    own, place = f"{FIT} --trainer.callbacks+=own_callback.Broken --trainer.callbacks.at ", f"{toys}/own_callback.py"
    assert f"error: no such room ({place}, line 8)" in stopped(f"{own}init", capsys)[1]
    status, errors = stopped(f"{own}start", capsys)
    assert status == 1 and f'File "{place}", line 11, in on_fit_start' in errors
    assert errors.rstrip().endswith("KeyError: 'missing'") and errors.count('File "') == 1
    monkeypatch.setenv("LOGLEVEL", "DEBUG")
    with pytest.raises(KeyError):
        run.main(f"{own}start".split())


class OneBitOpus(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Opus:
        return Opus(0.001)


def test_errors_are_distinguished_by_where_they_were_raised() -> None:
    """Guards against a user error reported as a traceback by a loader's worker or the file system, a TypeError of ours
    taken for a bug, and a bug taken for a user error."""

    def told(error: BaseException) -> str | None:
        return (said := failure(error)) and said.text.splitlines()[0]

    with pytest.raises(ValueError, match="Original Traceback") as raised:
        list(DataLoader(OneBitOpus(), num_workers=1))
    assert told(raised.value) == "error: Expected `kilobits_per_second` in [6, 256], but got 0.001."
    with pytest.raises(TypeError) as raised:
        DurableCheckpointIO().save_checkpoint({}, "x", storage_options=1)
    assert told(raised.value) == "error: Expected no `storage_options`, but got 1."
    denied = PermissionError(errno.EACCES, "Permission denied", "runs/a")
    assert told(denied).startswith(
        "error: Expected to use `runs/a`, but got: Permission denied. Change its permissions"
    )
    assert told(ModuleNotFoundError("No module named 'nowhere'", name="nowhere.codec")).startswith(
        "error: Expected the Python pack"
    )
    assert told(ModuleNotFoundError("No module named 'modules.x'", name="modules.x")) is None
    with pytest.raises(KeyError) as raised:
        {}["a"]
    assert told(raised.value) is None
    with pytest.raises(RuntimeError) as raised:
        torch.ones(2, 3) @ torch.ones(2)
    assert told(raised.value) is None


def test_configs_are_for_the_command_in_their_first_line() -> None:
    """Guards against a predict that discards its results, a finder that cannot set the rate, and a check that rejects a
    shipped config."""
    codec = ("datamodules.audio.AudioDataModule", "modules.codec_module.CodecModule")
    layout, writer, bar, finder = (
        {"class_path": path}
        for path in (
            "callbacks.run_layout.RunLayout",
            "callbacks.token_shards.TokenShardWriter",
            "lightning.pytorch.callbacks.TQDMProgressBar",
            "lightning.pytorch.callbacks.LearningRateFinder",
        )
    )
    with pytest.raises(ValueError, match="without a callback that writes what is predicted"):
        check_subcommand("predict", *codec, [layout, bar])
    check_subcommand("predict", *codec, [layout, writer])
    with pytest.raises(ValueError, match=r"--model\.init_args\.optimizer\.init_args\.lr"):
        check_subcommand("fit", *codec, [finder])
    num_checked = 0
    for path in (REPOSITORY / "configs").rglob("*.yaml"):
        text = path.read_text()
        if command := re.match(r"# (fit|test|predict): ", text):
            config = yaml.safe_load(text)
            model, trainer = (
                yaml.safe_load((path.parent / one).read_text()) if isinstance(one, str) else one
                for one in (config["model"], config.get("trainer", {}))
            )
            if "data" in config and "class_path" in config["data"]:
                check_subcommand(
                    command[1],
                    config["data"]["class_path"],
                    model["class_path"],
                    [*trainer.get("callbacks", []), *config.values()],
                )
                num_checked += 1
    assert num_checked > 10


def test_a_missing_input_names_the_command_that_makes_it() -> None:
    """Guards against an error without a remedy: the commands are those of the demo's script."""
    steps = re.findall(r"run\.py (\w+) --config (\S+demo/\w+\.yaml)", (REPOSITORY / "scripts/demo.sh").read_text())
    commands = {Path(config).stem: f"python run.py {command} --config {config}" for command, config in steps}
    for path, step in {
        "runs/demo/tokens/train": "tokenise",
        "cache/shards/digits/hard": "tokenise",
        "runs/demo/codec/checkpoints/last.ckpt": "codec",
        "cache/shards/asterisk_en/train": "codec",
        "runs/demo/lm/checkpoints/last.ckpt": "lm",
    }.items():
        assert made_by(Path(path)) == f"{commands[step]} makes what is there."
    assert made_by(Path("recordings/of_mine")) == ""


def test_what_cannot_be_fetched_or_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against "cannot connect" without the model's name, and a class that transformers lacks."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = "nobody/nothing"
    for read in (
        lambda: TransformersCodec(name).facts,
        lambda: HuggingFaceTokenizer(name).tokenizer,
        lambda: load_pretrained(PretrainedNetwork(name), TokenSpace(8, 8)),
        lambda: FasterWhisper(name)._folder,
    ):
        with pytest.raises((OSError, ValueError), match=f"Expected .*`{name}`") as raised:
            read()
        assert name in failure(raised.value).text.splitlines()[0]
    (tmp_path / "config.json").write_text('{"model_type": "no_such_codec"}')
    with pytest.raises(ValueError, match="has model type `no_such_codec`") as raised:
        TransformersCodec(str(tmp_path)).facts  # noqa: B018
    assert failure(raised.value).status == 2


def test_converters_report_errors_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Guards against tracebacks of the commands besides run.py: for a file that is not a checkpoint, a damaged one,
    another model's."""
    damaged, other = tmp_path / "damaged.ckpt", tmp_path / "other.ckpt"
    damaged.write_bytes(b"no checkpoint")
    torch.save({"state_dict": {}, "hyper_parameters": {}}, other)
    for main, command in ((codec_main, "convert"), (lm_main, "export")):
        for path in (damaged, other, tmp_path / "none.ckpt"):
            with pytest.raises(SystemExit) as stop:
                main([command, str(path), str(tmp_path / "out")])
            errors = capsys.readouterr().err
            assert stop.value.code == 2 and re.fullmatch(rf"error: Expected .*`{path}`.*\n", errors), errors
