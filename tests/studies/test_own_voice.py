"""studies/own_voice: the page against its json, the collector on a toy sweep, and the script's commands."""

import csv
import json
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from studies.own_voice import collect
from tests.test_configs import REPOSITORY, ParsingCLI

RESULTS = REPOSITORY / "studies/own_voice"


def test_every_method_was_measured_to_the_end() -> None:
    """Guards against results of a run that lacks a method or its last checkpoint."""
    found = json.loads((RESULTS / "results.json").read_text())
    shown = {(row["method"], row["steps"]) for row in found["curve"]}
    assert shown >= {(one, 400) for one in collect.METHODS} | {("base", 0)}


def write_sweep(folder: Path, scores: dict[tuple[str, str, str], tuple[str, str]]) -> None:
    (folder / "report").mkdir(parents=True)
    with (folder / "report/candidates.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["model", "prompt_set", "text", "stopped", "speaker", "digits"])
        writer.writerows([*key, int(speaker != ""), speaker, digits] for key, (speaker, digits) in scores.items())


def test_differences_are_paired_by_prompt_and_seed(tmp_path: Path) -> None:
    """Guards against means over other prompts, prompts of one model in another's order, samples that could not be
    judged and are forgotten, and accuracy in place of error."""
    base = {("base", "own voice", "1 2"): ("0.5", "0.5"), ("base", "own voice", "3 4"): ("0.7", "1.0")}
    one = {("lora_50", "no voice", "3 4"): ("0.9", "0.75"), ("lora_50", "no voice", "1 2"): ("0.8", "1.0")}
    other = {("lora_50", "no voice", "1 2"): ("", ""), ("lora_50", "no voice", "3 4"): ("0.9", "1.0")}
    write_sweep(tmp_path / "voices_0", base | one)
    write_sweep(tmp_path / "voices_1", base | other)
    (tmp_path / "floor.json").write_text(json.dumps({"recording": {"similarity": [0.9, 0.8]}}))
    found = collect.gather(tmp_path)
    (alone,), (base_row, row) = collect.of(found, "base", "own voice"), collect.of(found, "lora", "own voice")[:1] * 2
    assert alone == base_row == row and alone["steps"] == 0
    assert alone["similarity"]["value"] == pytest.approx(0.6) and alone["digit_error"]["value"] == pytest.approx(0.25)
    (row,) = collect.of(found, "lora", "no voice")
    assert (row["steps"], row["num_unjudged"], row["num_never_ended"]) == (50, 1, 1)
    assert row["similarity"]["by_seed"] == pytest.approx([0.85, 0.45])
    assert row["digit_error"]["by_seed"] == pytest.approx([0.125, 0.5])
    assert row["similarity_difference"]["by_prompt"] == pytest.approx(np.mean([[0.3, 0.2], [-0.5, 0.2]], axis=0))
    assert row["digit_error_difference"]["value"] == pytest.approx((0.125 + 0.5) / 2 - 0.25)
    assert found["floor"]["recording"]["similarity"]["value"] == pytest.approx(0.85)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Python calls of the script, in order; the working folder is a copy without data, runs and results."""
    (tmp_path / "studies/own_voice").mkdir(parents=True)
    shutil.copy(RESULTS / "run.sh", tmp_path / "studies/own_voice")
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    python = tmp_path / "python"
    python.write_text('#!/usr/bin/env bash\nprintf "%q " "$@" >>asked\necho >>asked\n')
    python.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHON", str(python))
    monkeypatch.setattr("sys.argv", ["run.py"])
    monkeypatch.syspath_prepend(str(REPOSITORY))
    subprocess.run(["bash", "studies/own_voice/run.sh"], check=True, timeout=60)
    return [shlex.split(line) for line in (tmp_path / "asked").read_text().splitlines()]


def value(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_every_stage_finds_what_an_earlier_one_made(commands: list[list[str]]) -> None:
    """Guards against options that no longer exist, checkpoints that no stage writes, a method that trains what another
    one does, and a sweep over the adaptations of another seed."""
    stages = [command for command in commands if command[0] == "run.py"]
    fits = [command for command in stages if any(word.endswith("adapt.yaml") for word in command)]
    tests = [command for command in stages if command[1] == "test"]
    assert len(stages) == 4 + 3 * 5 and len(fits) == 3 * 4 and len(tests) == 3
    for seed, command in enumerate(tests):
        models = yaml.safe_load(value(command, "--sweep.more_models"))
        folders = {f"{name}_{seed}" for name in collect.METHODS}
        found = [(one["init_args"]["name"], one["init_args"]["source"]) for one in models]
        steps = [100, 200, 300, 400]
        assert sorted(found) == sorted(
            (f"{name}_{step}", f"runs/own_voice/{name}_{seed}/checkpoints/adapted-step={step}.ckpt")
            for name in collect.METHODS
            for step in steps
        )
        own = fits[4 * seed : 4 * seed + 4]
        assert {value(one, "--stage.folder") for one in own} == {f"runs/own_voice/{name}" for name in folders}
        assert {value(one, "--seed_everything") for one in own} == {value(command, "--sweep.seed")} == {str(seed)}
        assert {source for _, source in found} < set(yaml.safe_load(value(command, "--stage.inputs")))
    config = ParsingCLI(fits[1][1:]).config.fit
    assert config.model.init_args.optimizer.init_args.lr == 2e-3 and len(config.model.init_args.adapters.layers) == 7
    kept = config.trainer.callbacks[1].init_args
    assert (kept.filename, kept.every_n_train_steps, config.trainer.max_steps) == ("adapted-{step}", 100, 400)
    config = ParsingCLI(fits[2][1:]).config.fit
    assert config.model.init_args.adapters.train_embeddings and len(config.model.init_args.adapters.layers) == 7
    config = ParsingCLI(fits[3][1:]).config.fit
    assert config.model.init_args.adapters is None and config.model.init_args.optimizer.init_args.lr == 1e-4
