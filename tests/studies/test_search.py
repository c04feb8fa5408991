"""studies/search/run.sh with a python that records its calls, and the collector on toy sweeps."""

import argparse
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

import studies.search.collect
import studies.search.costs
from tests.callbacks.test_inference_scaling import ToyPrompts
from tests.callbacks.test_sweep_grid import PartialVerifier, TreeModule
from tests.test_configs import REPOSITORY, DryCLI, ParsingCLI
from tests.toys.search_toys import ToyCodec, TreeSampler, first_level, mean_level, toy_prompts


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Python calls of the script, in order; the working folder is a copy without data, runs and results."""
    (tmp_path / "studies/search").mkdir(parents=True)
    shutil.copy(REPOSITORY / "studies/search/run.sh", tmp_path / "studies/search")
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    python = tmp_path / "python"
    python.write_text('#!/usr/bin/env bash\nprintf "%q " "$@" >>asked\necho >>asked\n')
    python.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHON", str(python))
    monkeypatch.setattr("sys.argv", ["run.py"])
    monkeypatch.syspath_prepend(str(REPOSITORY))
    subprocess.run(["bash", "studies/search/run.sh"], check=True, timeout=60)
    return [shlex.split(line) for line in (tmp_path / "asked").read_text().splitlines()]


def test_every_stage_finds_what_an_earlier_one_made(commands: list[list[str]]) -> None:
    """Guards against options and configs that no longer exist, and a stage that reads files that no earlier one
    wrote."""
    assert [command[0] for command in commands[:7]] == ["run.py"] * 7
    assert [command[:2] for command in commands[7:]] == [
        ["-m", f"studies.search.{name}"] for name in ("costs", "collect")
    ]
    demo = ParsingCLI(["fit", "--config", "configs/demo/codec.yaml"]).config.fit
    made = [Path(path) for path in demo.stage.outputs]
    for _, subcommand, *arguments in commands[:7]:
        config = ParsingCLI([subcommand, *arguments]).config[subcommand]
        for path in map(Path, config.stage.inputs):
            assert any(one == path or path in one.parents or one in path.parents for one in made), path
        if subcommand == "predict":
            made.append(Path(config.data.init_args.folder))  # the audio shards
        if subcommand == "test":
            assert Path(config.ckpt_path) in made and str(config.ckpt_path) in map(str, config.stage.inputs)
        made += map(Path, config.stage.outputs)
    assert len(set(made)) == len(made)


def test_the_sweeps_write_what_the_collector_reads(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against folders, names of verifiers and columns that the collector does not read: the script's sweeps with
    toys in place of codec, language model and verifiers."""
    results = tmp_path / "studies/search"
    shutil.copy(REPOSITORY / "studies/search/README.md", results)
    for _, _, *arguments in [command for command in commands if command[1:2] == ["test"]]:
        cli = DryCLI(["test", *arguments])
        (sweep,) = (one for one in cli.trainer.callbacks if hasattr(one, "judges"))
        sweep.codec, sweep.num_resamples = ToyCodec(), 50
        for verifiers in (sweep.selectors, sweep.judges):
            verifiers[:] = [
                PartialVerifier(name, mean_level if name == "whisper" else first_level)
                for name in [one.facts.name for one in verifiers]
            ]
        trainer = Trainer(
            accelerator="cpu", logger=False, callbacks=[sweep], enable_progress_bar=False, enable_model_summary=False
        )  # fmt: skip
        trainer.test(
            TreeModule(TreeSampler(num_codes=130)),
            datamodule=ToyPrompts({"6 to 8 digits": toy_prompts(4)}),
            verbose=False,
        )
        assert all(Path(path).is_file() for path in cli.config.test.stage.outputs)
    costs, collect = (command[2:] for command in commands[7:])
    read = argparse.ArgumentParser.parse_args

    class Parsed(Exception):
        pass

    def stop(parser: argparse.ArgumentParser) -> None:
        raise Parsed(read(parser, costs))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Parsed) as parsed:
        studies.search.costs.main()
    shutil.copy(REPOSITORY / "studies/search/costs.json", parsed.value.args[0].output)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda parser: read(parser, collect))
    studies.search.collect.main()
    assert all((results / name).is_file() for name in ("results.json", "results.png", "README.md"))
    text = (results / "README.md").read_text()
    searches = text.split("<!-- searches -->")[1].split("<!-- end")[0].splitlines()[3:]
    names = {line.split("|")[1].strip(): line.count("+0.") + line.count("-0.") for line in searches if line}
    assert {"process_beam", "partial_beam", "diverse_beam", "adaptive"} <= set(names)
    assert all(number == 3 + 3 for number in names.values())  # a difference with its interval, and that of each seed
    assert "the demo, a candidate" in text.split("<!-- costs -->")[1].split("<!-- end")[0]
