"""`python run.py prepare`: what it reads, what it builds, how it ends."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

import run
from datamodules.shards.preparation import prepare_audio_shards
from modules.command.prepare import terminable
from tests.conftest import REPOSITORY
from tests.toys.tiny_corpus import TinyCorpus

CONFIG = """
stage: {folder: made/voice, next: python run.py fit --config codec.yaml}
data:
  class_path: tests.toys.prepared_data.NotedData
  init_args: {folder: '${stage.folder}/shards', num_batches: '${trainer.max_steps}'}
trainer: {max_steps: 7}
"""


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the command in an empty folder on CONFIG. Returns its exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(REPOSITORY))
    monkeypatch.setattr("sys.argv", ["run.py"])
    monkeypatch.delenv("FOLDER", raising=False)
    Path("data.yaml").write_text(CONFIG)

    def command(*words: str) -> int:
        with pytest.raises(SystemExit) as stop:
            run.main(["prepare", "--config", "data.yaml", *words])
        return stop.value.code

    return command


def noted(folder: str = "made/voice/shards") -> dict:
    return json.loads(Path(folder, "noted.json").read_text())


def errors(capsys: pytest.CaptureFixture) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


def test_data_are_prepared_from_configs_and_options(prepare, capsys) -> None:
    """Guards against a preparation of other data than `fit` would read, one that needs or builds a model, and one that
    leaves the marker of a run behind."""
    Path("later.yaml").write_text(
        "model: {class_path: tests.toys.prepared_data.UnbuildableModel}\ntrainer: {max_steps: 9}"
    )
    assert prepare("--config", "later.yaml", "--num_processes", "3", "--share", "2/5", "--hours", "1.5") == 0
    assert noted() == {"num_processes": 3, "share": [1, 5], "hours": 1.5, "num_batches": 9}
    assert "python run.py fit" not in capsys.readouterr().out, "the other shares may not be ready"
    assert prepare("--data.init_args.folder", "elsewhere", "--data.init_args.hours=2") == 0
    assert noted("elsewhere") == {"num_processes": num_cores(), "share": [0, 1], "hours": 2, "num_batches": 7}
    assert capsys.readouterr().out.splitlines()[-1].strip() == "python run.py fit --config codec.yaml"
    assert sorted(map(str, Path("made/voice").rglob("*.json"))) == ["made/voice/shards/noted.json"]


def num_cores() -> int:
    return int(
        re.search(r"^Cpus_allowed:\s+([\da-f,]+)", Path("/proc/self/status").read_text(), re.M)[1], 16
    ).bit_count()


def test_the_shards_are_those_of_a_fit(prepare, tmp_path: Path) -> None:
    Path("audio.yaml").write_text(
        "data: {class_path: datamodules.audio.AudioDataModule, init_args: {audio_format: wav, sources: ["
        "{class_path: tests.toys.tiny_corpus.TinyCorpus, init_args: {num_prompts: 3}}]}}"
    )
    assert prepare("--config", "audio.yaml", "--num_processes=2") == 0
    prepare_audio_shards([TinyCorpus(3)], tmp_path / "fit", 16000, "wav")
    made, wanted = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.tar")}
        for folder in (tmp_path / "made/voice/shards", tmp_path / "fit")
    )
    assert wanted and made == wanted


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--share", "0/3"], "3/10, but got '0/3'"),
        (["--share", "4/3"], "3/10, but got '4/3'"),
        (["--num_processes", "0"], "at least 1, but got '0'"),
        (["--hours", "many"], "many"),
        (["--num_procs", "2"], "num_procs"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--config", str(REPOSITORY / "configs/voice/prepare.yaml")], "Expected FOLDER in the environment"),
        (["--data", "tests.toys.prepared_data.UnpreparedData"], "but got UnpreparedData, which prepares nothing"),
    ],
)
def test_an_error_is_one_line(words, told, prepare, capsys) -> None:
    """Guards against an option that is passed over in silence, and against data that another command makes."""
    assert prepare(*words) == 2
    (line,) = errors(capsys)
    assert told in line or words[0] == "--hours"
    assert not Path("made").exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_it_with_one_line(name, prepare, capsys) -> None:
    """Guards against a traceback, and against a status that a job's script takes for success."""
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
    assert prepare(f"--data.init_args.ends={name}") == 128 + signal.Signals[name]
    assert noted()
    output = capsys.readouterr()
    assert output.err.split("\n")[-2:] == ["Stopped. The same command resumes.", ""]
    assert "python run.py fit" not in output.out
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_forked_child_ends_by_the_signal() -> None:
    """Guards against children that take their end for their parent's, and print it."""
    with terminable():
        if not (child := os.fork()):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
