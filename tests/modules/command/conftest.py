"""Runs `say` in the test's process, on a small random model."""

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile
import torch

from modules.command.speaking import run
from tests.conftest import speech_like
from tests.toys.tiny_voice import save_run

UNCHECKED = ("--language", "de")  # no recogniser and no aligner: fewer seconds
TEXT = "Four two one. Two, one! One four two one."
SENTENCES = [f"{one} {two} {three}." for one in ("Four", "Two") for two in ("one", "two") for three in ("one", "four")]


@dataclass(frozen=True)
class Said:
    """What a command left: its status, standard output and standard error."""

    status: int
    out: bytes
    err: str


def change_facts(path: Path, **facts: int) -> None:
    content = torch.load(path, weights_only=True)
    content["training_facts"] |= facts
    torch.save(content, path)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with one run, of random weights, that knows four, one and two."""
    folder = tmp_path_factory.mktemp("root")
    save_run(folder, "a")
    change_facts(folder / "runs/a/lm/checkpoints/last.ckpt", row_length=384, longest_text=0)
    return folder


@pytest.fixture(scope="module")
def recording(root) -> Path:
    words = ["four", "two", "one"] * 3
    path = root / "me.wav"
    soundfile.write(path, speech_like(words, 110.0, torch.Generator().manual_seed(7)).numpy(), 16000)
    return path


@pytest.fixture
def say(root, tmp_path, monkeypatch, capfdbinary):
    """Runs the command in this process, in an empty folder. Speech is short: random weights rarely end it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modules.speech.sentence_search.MAX_REDRAWS", 0)
    monkeypatch.setattr("modules.speech.voice.SPOKEN_SECONDS_PER_CHARACTER", 0.02)
    for name, value in (("SECONDS_PER_CHARACTER", 0.1), ("SLACK_SECONDS", 0.5), ("LIMIT_STEP", 1)):
        monkeypatch.setattr(f"modules.speech.narration.{name}", value)
    monkeypatch.setenv("SUITE_ROOT", str(root))

    def command(*words: str, stdin: bytes = b"") -> Said:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        try:
            status = run(["say", *words])
        except SystemExit as stop:  # of argparse
            status = stop.code
        sys.stdout.flush()
        output = capfdbinary.readouterr()
        return Said(status, output.out, output.err.decode())

    return command


def listing(*folders: Path) -> set[tuple[Path, int, int]]:
    files = [path for folder in folders for path in folder.rglob("*")]
    return {(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def record(path: Path | str) -> dict:
    return json.loads(Path(path).with_suffix(".json").read_text())
