"""Every yaml in configs/ builds its model, data, callbacks and trainer, without data, weights or network."""

import math
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

import run
from modules.command.defaults import DEFAULTS
from modules.stage_config import CALLBACK_KEYS

REPOSITORY = Path(__file__).resolve().parent.parent
SUBCOMMANDS = ("fit", "validate", "test", "predict")


class DryCLI(run.SuiteCLI):
    """The command up to the point where it would access a file."""

    def before_instantiate_classes(self) -> None:
        pass

    def _parse_ckpt_path(self) -> None:
        pass  # whether the checkpoint exists depends on earlier runs

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text()) or {}


def is_experiment(path: Path) -> bool:
    """A complete experiment, not an overlay or a part that another config names."""
    return {"model", "data"} <= read(path).keys() and not is_overlay(path)


def part(path: Path, name: str) -> Any:
    """A group of an experiment, which may be a separate file in the same folder."""
    value = read(path).get(name, {})
    return read(path.parent / value) if isinstance(value, str) else value


def is_for_another_command(path: Path) -> bool:
    """A config of `prepare`, without a model, or of `say`: tests/test_voice_recipe.py, tests/test_open_voice.py and
    tests/test_llasa_recipes.py read or run them."""
    return path.read_text().startswith(("# prepare: ", "# say: "))


def is_overlay(path: Path) -> bool:
    """Check whether a yaml is an overlay: by its folder, or by its first line."""
    return path.parent.name in {"size", "data", "hardware"} or path.read_text().startswith("# Overlay")


def subcommand_of(path: Path) -> str:
    """Subcommand in the comment at the top: `python run.py fit --config ...`."""
    head = path.read_text().split("\n\n")[0]
    found = re.search(rf"run\.py ({'|'.join(SUBCOMMANDS)})\b", head)
    assert found, f"{path}: the comment at the top names no command `python run.py SUBCOMMAND --config ...`"
    return found[1]


CONFIGS = sorted((REPOSITORY / "configs").rglob("*.yaml"))
EXPERIMENTS = [path for path in CONFIGS if is_experiment(path)]
LM_FITS = [
    path
    for path in EXPERIMENTS
    if subcommand_of(path) == "fit"
    and part(path, "data")["class_path"]
    in ("datamodules.tokens.TokenDataModule", "datamodules.memmaps.MemmapDataModule")
]
# A multiple of the micro-batches per step on any hardware.
COMMON_MULTIPLE = math.lcm(
    *(read(path)["trainer"]["accumulate_grad_batches"] for path in CONFIGS if path.parent.name == "hardware"
      and path.parent.parent.name == "configs")
)  # fmt: skip


def strings(value: Any, key: str = "") -> list[tuple[str, str]]:
    """Every (key, string) in a nested config."""
    if isinstance(value, dict):
        return [found for name, item in value.items() for found in strings(item, name)]
    if isinstance(value, list):
        return [found for item in value for found in strings(item, key)]
    return [(key, value)] if isinstance(value, str) else []


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: str(path.relative_to(REPOSITORY / "configs")))
def test_an_experiment_builds(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a config whose names no longer exist in the code, against parts that read files when built, and
    against a pass of the language model whose last step has fewer micro-batches than the others."""
    monkeypatch.setattr("sys.argv", ["run.py"])
    monkeypatch.chdir(tmp_path)  # no data and no checkpoints here
    monkeypatch.syspath_prepend(str(REPOSITORY))
    monkeypatch.setenv("FOLDER", "recordings")  # of configs/llasa/tokenise.yaml
    accumulated = ["--trainer.accumulate_grad_batches", str(COMMON_MULTIPLE)] if path in LM_FITS else []
    cli = DryCLI([subcommand_of(path), "--config", str(path), *accumulated])
    assert not accumulated or cli.datamodule.num_batches % COMMON_MULTIPLE == 0
    config = {name: part(path, name) for name in ("trainer", "model", "data")}
    wanted = config["trainer"]
    assert cli.trainer.max_steps == wanted.get("max_steps", -1)
    if isinstance(config["model"], dict):
        assert type(cli.model).__qualname__ == config["model"]["class_path"].rpartition(".")[2]
    assert type(cli.datamodule).__qualname__ == config["data"]["class_path"].rpartition(".")[2]
    callbacks = {type(callback).__qualname__ for callback in cli.trainer.callbacks}
    config |= read(DEFAULTS)[subcommand_of(path)] | read(path)
    of_training = ("checkpoint", "learning_rate_monitor", "progress_bar")
    keys = [key for key in CALLBACK_KEYS if subcommand_of(path) == "fit" or key not in of_training]
    named = [*wanted.get("callbacks", []), *(config[key] for key in keys if config.get(key))]
    paths = [item if isinstance(item, str) else item.get("class_path", "") for item in named]
    assert {name.rpartition(".")[2] for name in paths if name} <= callbacks
    assert ("FiniteValidation" in callbacks) == (subcommand_of(path) == "fit")
    assert not list(tmp_path.iterdir()), "building the parts wrote files"


# The parser is that of the command, not of the config: one of each data module and command is enough.
KINDS = {(subcommand_of(path), part(path, "data")["class_path"]): path for path in reversed(EXPERIMENTS)}


@pytest.mark.parametrize("path", KINDS.values(), ids=lambda path: str(path.relative_to(REPOSITORY / "configs")))
def test_a_misspelt_key_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Guards against a setting that silently has no effect."""
    monkeypatch.setattr("sys.argv", ["run.py"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOLDER", "recordings")
    misspelt = tmp_path / "misspelt.yaml"
    misspelt.write_text("trainer: {max_stepz: 1}\n")
    with pytest.raises(SystemExit) as stop:
        DryCLI([subcommand_of(path), "--config", str(path), "--config", str(misspelt)])
    assert stop.value.code == 2
    assert "max_stepz" in capsys.readouterr().err


def test_every_config_is_an_experiment_or_a_part_of_one() -> None:
    """Guards against a yaml that no test builds: not named by an experiment and not an overlay."""
    named = {(path.parent / value).resolve() for path in CONFIGS for _, value in strings(read(path))} | {DEFAULTS}
    others = [path for path in CONFIGS if is_for_another_command(path)]
    assert {path.parent.name for path in others} == {"voice", "open", "llasa"}
    strays = [path for path in CONFIGS if path not in [*EXPERIMENTS, *named, *others] and not is_overlay(path)]
    assert not strays


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs/corpora").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_overlay_of_a_corpus_builds_its_source(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a corpus that needs more than a few lines, arguments that its source lacks, shards in the folder
    of another corpus, a comment with another's command, and a corpus that docs/corpora.md does not list."""
    monkeypatch.chdir(tmp_path)  # no data here
    text = path.read_text()
    assert len([line for line in text.splitlines() if line.strip() and not line.startswith("#")]) <= 8
    assert f"run.py prepare --config configs/corpora/{path.name}\n" in text
    assert f"`{path.stem}`" in (REPOSITORY / "docs/corpora.md").read_text()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    data = parser.instantiate_classes(parser.parse_path(path)).data
    assert str(data.folder) == f"cache/shards/{path.stem}" and not list(tmp_path.iterdir())
    wanted = read(path)["data"]["init_args"]["sources"]
    assert [type(one).__qualname__ for one in data.sources] == [one["class_path"].split(".")[-1] for one in wanted]


class ParsingCLI(DryCLI):
    """The command up to the point where it would build anything: missing devices are not an error."""

    def instantiate_classes(self) -> None:
        pass


def test_the_overlay_of_any_text_takes_any_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against the demo's `characters`, which stay if a yaml names the tokenizer's class again."""
    monkeypatch.setattr("sys.argv", ["run.py"])
    monkeypatch.chdir(tmp_path)
    names = ["demo/lm.yaml", "lm/any_text.yaml"]
    cli = DryCLI(["fit", *[word for name in names for word in ("--config", str(REPOSITORY / "configs" / name))]])
    for form in (cli.datamodule.prompt_format, cli.model.prompt_format):
        assert form.prompt_tokens("Größe 4!")[1:-2] == list("Größe 4!".encode())
        assert form.codebook_size == 4096


def test_the_overlay_of_speech_states_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an overlay that no longer fits the demo's codec, or that does not replace its encoder."""
    monkeypatch.setattr("sys.argv", ["run.py"])
    monkeypatch.chdir(tmp_path)
    names = ["demo/codec.yaml", "codec/whisper_states.yaml"]
    cli = DryCLI(["fit", *[word for name in names for word in ("--config", str(REPOSITORY / "configs" / name))]])
    assert cli.model.generator.encoder.semantic.encode_settings == cli.datamodule.semantic.encode_settings
    assert cli.model.semantic_decoder is not None and cli.model.loss_weights.semantic == 1
    assert cli.model.loss_weights.adversarial == 0.1 and cli.model.generator.facts.codebook_size == 4096


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("codec/ema.yaml")) + sorted(
    (REPOSITORY / "configs/codec/hardware").glob("*.yaml")
), ids=lambda path: path.stem)  # fmt: skip
def test_an_overlay_of_the_codec_fits_its_recipe(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an overlay that replaces what it should extend, or whose keys no longer exist."""
    monkeypatch.setattr("sys.argv", ["run.py"])
    base = REPOSITORY / "configs/codec/xcodec2.yaml"
    alone, both = (
        ParsingCLI(["fit", *[word for part in parts for word in ("--config", str(part))]]).config.fit.trainer
        for parts in ([base], [base, path])
    )
    own = read(path)["trainer"]
    num_added = int("callbacks+" in own)
    assert len(both.callbacks) == len(alone.callbacks) + num_added
    assert both.max_steps == alone.max_steps and both.precision == alone.precision
    assert all(both[key] == own[key] for key in own.keys() & {"devices", "num_nodes", "accelerator"})


def test_two_processes_make_the_steps_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an overlay of the voice that trains on larger steps, or without the recipe's callbacks."""
    monkeypatch.setattr("sys.argv", ["run.py"])
    paths = [REPOSITORY / "configs/voice/open" / name for name in ("lm.yaml", "two_processes.yaml")]
    alone, two = (
        ParsingCLI(["fit", *[word for path in given for word in ("--config", str(path))]]).config.fit
        for given in (paths[:1], paths)
    )
    kept, names = ([one.class_path for one in config.trainer.callbacks] for config in (alone, two))
    assert names == [*kept, "callbacks.termination.TerminateAtOnce"]
    assert (two.trainer.devices, two.trainer.strategy, two.trainer.accelerator, two.num_threads) == (2, "ddp", "cpu", 1)
    sizes = [config.data.init_args.batch_size * int(config.trainer.devices) for config in (alone, two)]
    assert sizes == [4, 4] and two.data.init_args.num_batches == alone.data.init_args.num_batches


@pytest.mark.parametrize(
    "names", [("demo/lm.yaml", "demo/spoken_texts.yaml"), ("lm/llasa_1b.yaml", "lm/spoken_texts.yaml")]
)
def test_spoken_texts_are_added_to_the_other_callbacks(names: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an overlay that removes the checkpoints, and one whose selector is its own judge."""
    monkeypatch.setattr("sys.argv", ["run.py"])
    paths = [REPOSITORY / "configs" / name for name in names]
    parser = ParsingCLI(["fit", *[word for path in paths for word in ("--config", str(path))]])
    assert len(parser.config.fit.trainer.callbacks) == len(part(paths[0], "trainer")["callbacks"])
    assert parser.config.fit.checkpoint.class_path == "callbacks.run_checkpoint.RunCheckpoint"
    spoken = parser.config.fit.spoken_texts
    assert spoken.class_path == "callbacks.spoken_texts.SpokenTexts"
    recognisers = {spoken.init_args[role].init_args.recogniser.class_path for role in ("selector", "judge")}
    assert len(recognisers) == 2


@pytest.mark.parametrize("name", ["sweep", "demo"])
def test_an_engine_fits_its_sweep(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an engine that a sweep does not accept, and a config that needs vLLM to be read."""
    monkeypatch.setattr("sys.argv", ["run.py"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(REPOSITORY))
    base = REPOSITORY / "configs" / {"sweep": "sweep/esd.yaml", "demo": "demo/sweep.yaml"}[name]
    engine = REPOSITORY / "configs" / name / "vllm.yaml"
    cli = DryCLI(["test", "--config", str(base), "--sweep.engine", str(engine)])
    sweep = next(one for one in cli.trainer.callbacks if type(one).__name__ == "InferenceScaling")
    wanted = read(engine)["init_args"]
    assert {key: getattr(sweep.engine, key) for key in wanted} == wanted


@pytest.mark.parametrize("name", ["sweep/esd.yaml", "demo/sweep.yaml"])
def test_ranks_of_a_sweep_wait_as_long_as_the_overlay_says(name: str, tmp_path, monkeypatch) -> None:
    """Guards against ranks that give up on the slowest after half an hour: a `timeout` that is ignored, or read as
    another number (yaml takes 24:00:00 without quotes for 86,400)."""
    monkeypatch.setattr("sys.argv", ["run.py"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(REPOSITORY))
    timeouts: list[timedelta] = []
    monkeypatch.setattr(
        "lightning.pytorch.strategies.ddp._init_dist_connection", lambda *_, timeout, **__: timeouts.append(timeout)
    )
    paths = [REPOSITORY / "configs" / one for one in (name, "sweep/ranks.yaml")]
    command = ["test", *[word for path in paths for word in ("--config", str(path))]]
    strategy = DryCLI([*command, "--trainer.accelerator", "cpu", "--trainer.devices", "2"]).trainer.strategy
    assert strategy.num_processes == 2
    strategy.setup_distributed()
    assert timeouts == [timedelta(hours=24)]


def test_every_class_path_is_in_the_project_or_a_package() -> None:
    """Guards against a class_path into the tests or a script, which a user's checkout may lack."""
    names = [value for path in CONFIGS for key, value in strings(read(path)) if key == "class_path"]
    assert names
    assert not [name for name in names if name.split(".")[0] in ("tests", "scripts", "benchmarks", "run")]


def test_checkpoints_are_written_over_to_the_last_update() -> None:
    """Guards against a stale `last.ckpt` in a folder that was moved, and one without the end (test_stages.py)."""
    trainers = [part(path, "trainer") for path in EXPERIMENTS]
    listed = [one for trainer in trainers for one in trainer.get("callbacks", []) if "dirpath" in str(one)]
    found = [read(DEFAULTS)["fit"]["checkpoint"], *listed]
    assert len(found) >= 3
    assert all(one["init_args"]["enable_version_counter"] is False for one in found)
    savers = {one["class_path"] for one in found if "save_last" in one["init_args"]}
    assert savers == {"callbacks.run_checkpoint.RunCheckpoint"}


@pytest.mark.parametrize("script", ["demo", "voice"])
def test_a_script_runs_configs_that_are_there(script: str) -> None:
    """Guards against a script whose commands no longer match the configs."""
    commands = re.findall(r"run\.py (\w+) --config (\S+\.yaml)", (REPOSITORY / f"scripts/{script}.sh").read_text())
    assert len(commands) >= 4
    for subcommand, name in commands:
        assert (REPOSITORY / name).read_text().startswith(f"# {subcommand}: "), name
