"""configs/voice/open: the corpus is the same however it is prepared. Needs `apt-get install flite`."""

import io
import json
import multiprocessing
import re
import signal
import tarfile
import time
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

from datamodules.shards.preparation import prepare_audio_shards
from datamodules.sources.flite import Flite
from datamodules.sources.piper import Piper
from datamodules.sources.teacher import TeacherSource
from datamodules.sources.template_sentences import TemplateSentences
from tests.conftest import REPOSITORY
from tests.datamodules.sources.test_flite import needs_flite

PREPARE = REPOSITORY / "configs/voice/open/prepare.yaml"


def prepare(folder: Path, num_processes: int = 1) -> None:
    """Three recordings a unit, so that a kill leaves some units done and some not."""
    source = TeacherSource(Flite("rms"), [TemplateSentences(160)], 12, num_held_out=2, num_test=2)
    prepare_audio_shards([source], folder, 16_000, "wav", 3, num_processes=num_processes)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("overlays", "teacher", "lists"),
    [
        ((), "Flite('rms')", ["WordNetSentences", "WordNetSentences", "TemplateSentences"]),
        (("piper",), str(Piper()), ["WordNetSentences", "TemplateSentences"]),
    ],
)
def test_the_config_builds_its_source(
    overlays: tuple[str, ...], teacher: str, lists: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against arguments that the source lacks, an overlay that adds a second source, and a comment with the
    command of another."""
    monkeypatch.chdir(tmp_path)
    paths = [PREPARE, *(PREPARE.with_name(f"{name}.yaml") for name in overlays)]
    command = " ".join(f"--config {path.relative_to(REPOSITORY)}" for path in paths)
    assert f"run.py prepare {command}\n" in paths[-1].read_text()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    parser.add_argument("--stage", type=dict)
    parser.add_argument("--config", action="config")
    words = [word for path in paths for word in ("--config", str(path))]
    data = parser.instantiate_classes(parser.parse_args(words)).data
    (source,) = data.sources
    assert str(source.teacher) == teacher and [type(one).__name__ for one in source.sentences] == lists
    assert str(data.folder) == "${stage.folder}" and not list(tmp_path.iterdir())


@needs_flite
def test_a_killed_run_two_processes_and_a_straight_run_give_equal_bytes(tmp_path: Path) -> None:
    """Guards against audio that depends on what a process has spoken before; and against json whose words are not its
    text or do not end with the audio."""
    killed = multiprocessing.get_context("fork").Process(target=prepare, args=(tmp_path / "killed",))
    killed.start()
    units = tmp_path / "killed/.preparing/units"
    while killed.is_alive() and not list(units.glob("*.json")):
        time.sleep(0.005)
    killed.kill()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL and list(units.glob("*.json")), "it was not killed at work"
    prepare(tmp_path / "killed")
    prepare(tmp_path / "two", 2)
    prepare(tmp_path / "straight")
    wanted = contents(tmp_path / "straight")
    assert sum(name.endswith(".tar") for name in wanted) == 4 + 1 + 1
    assert contents(tmp_path / "two") == wanted and contents(tmp_path / "killed") == wanted
    abouts = [about for name, content in wanted.items() if name.endswith(".tar") for about in json_of(content)]
    assert len(abouts) == 16
    for about in abouts:
        assert " ".join(word for word, _ in about["words"]) == about["text"] and about["synthetic"] is True
        assert about["words"][-1][1] == pytest.approx(about["duration"], abs=1e-9)
        assert re.fullmatch(r"[a-z' ,.?!;:]+", about["text"]), about["text"]


def json_of(content: bytes) -> list[dict]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return [json.loads(tar.extractfile(member).read()) for member in tar if member.name.endswith(".json")]
