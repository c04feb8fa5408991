"""Former names: class paths of yamls, options, checkpoints and commands, and folders of configs."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from modules.described import instantiate
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.moved_names import CLASSES, CONFIGS, MODULES, current_name, current_words, with_current_names
from tests.conftest import REPOSITORY
from tests.test_configs import ParsingCLI

OLD_PATHS = (Path(__file__).parents[1] / "data/class_paths_before_the_move.txt").read_text().split()


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["run.py"])
    monkeypatch.chdir(REPOSITORY)
    return lambda *words: ParsingCLI(list(words))


def test_every_class_path_of_the_old_configs_is_found() -> None:
    """Guards against a moved class without an entry."""
    assert len(OLD_PATHS) > 80
    for path in OLD_PATHS:
        module, _, name = current_name(path).rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        assert f"{kind.__module__}.{kind.__name__}" == f"{module}.{name}", path


def test_the_tables_name_existing_places_and_are_in_the_changelog() -> None:
    """Guards against an entry without a target, and an undocumented change."""
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    for old, new in {**MODULES, **CLASSES}.items():
        assert f"| `{old}` | `{new}` |" in changelog
        if new in MODULES.values():
            importlib.import_module(new)
        assert new not in MODULES and new not in CLASSES, "an old name leads to a new one in one step"
    for old, new in CONFIGS.items():
        assert (REPOSITORY / new).is_dir() and not (REPOSITORY / old).exists()


def test_yamls_and_options_may_hold_old_names(parse, tmp_path: Path) -> None:
    """Guards against users' own yamls and scripts that fail because of a class path."""
    overlay = {
        "data": {
            "class_path": "datamodules.tokens.TokenDataModule",
            "init_args": {
                "prompt_format": {
                    "class_path": "modules.lm.prompt_format.TextToSpeech",
                    "init_args": {"tokenizer": {"class_path": "modules.lm.tokenizer.ByteTokenizer"}},
                }
            },
        },
        "trainer": {"callbacks": [{"class_path": "callbacks.run_checkpoint.RunCheckpoint"}]},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(overlay))
    words = [
        "--config", "configs/demo/lm.yaml", "--config",
        "configs/size/llama_tiny.yaml", "--config", str(tmp_path / "mine.yaml"),
    ]  # fmt: skip
    config = parse("fit", *words).config.fit
    assert config.data.init_args.prompt_format.class_path == "modules.lm.text.prompt_format.TextToSpeech"
    assert (
        config.model.init_args.size.hidden_size
        == yaml.safe_load((REPOSITORY / "configs/lm/size/llama_tiny.yaml").read_text())["model"]["init_args"]["size"][
            "hidden_size"
        ]
    )
    option = "--sweep.algorithm=modules.search.best_of_n.BestOfN"
    more = '--sweep.selectors=[{"class_path": "modules.verifiers.likelihood.Likelihood"}]'
    config = parse("test", "--config", "configs/demo/sweep.yaml", option, more).config
    sweep = config.test.sweep.init_args
    assert sweep.algorithm.class_path == "modules.search.algorithms.best_of_n.BestOfN"
    text = ["--data.text", "modules.lm.tokenizer.ByteTokenizer"]
    config = parse("predict", "--config", "configs/demo/synthesise.yaml", *text).config.predict
    assert config.data.init_args.text == text[1], "a text is none"


def test_configs_of_users_in_folders_of_that_name_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against looking up an existing file of the user's in another place."""
    mine = tmp_path / "configs/data/mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.touch()
    monkeypatch.chdir(REPOSITORY)
    words = [f"--config={mine}", str(mine), "--data.folder=configs/data/none", "--config=configs/size/llama_1b.yaml"]
    assert current_words(words) == [*words[:3], "--config=configs/lm/size/llama_1b.yaml"]


def test_checkpoints_may_hold_old_names() -> None:
    """Guards against trained models that no longer load: their parts are built by class path. The codec checkpoints of
    tests/toys/codec_files.py have old names too; tests/modules/codec/test_formats.py loads them."""
    described = {"class_path": "modules.lm.tokenizer.ByteTokenizer", "init_args": {"characters": "ab "}}
    assert isinstance(instantiate(described, "modules.lm"), ByteTokenizer)
    for path in ("modules.lm.text.prompt_format.os", "modules.search.best_of_n.BestOfN"):
        with pytest.raises(ValueError, match=r"classes of modules\.lm"):
            instantiate({"class_path": path, "init_args": {}}, "modules.lm")


def test_markers_and_nested_values_are_renamed_at_any_depth() -> None:
    """Guards against moving finished stages aside; strings that are not class paths are unchanged."""
    stored = {"a": [{"class_path": "callbacks.codec_report.CodecReport", "init_args": {"folder": "modules.lm.plan"}}]}
    assert with_current_names(stored) == {
        "a": [{"class_path": "callbacks.codec_evaluation.CodecReport", "init_args": {"folder": "modules.lm.plan"}}]
    }


def test_arguments_that_were_renamed_are_found_in_yamls_markers_and_options() -> None:
    """Guards against users' yamls and markers of the old key, and a name of the user's own that is taken for one."""
    class_path = "datamodules.prompt_sets.published_prompts.PublishedPromptDataModule"
    sets = {"benchmarks": {"class_path": "datamodules.benchmarks.esd.EmotionalSpeech", "init_args": {"folder": "x"}}}
    stored = {
        "data": {"class_path": "datamodules.benchmark_prompts.BenchmarkDataModule", "init_args": {"benchmarks": sets}}
    }
    current = with_current_names(stored)["data"]
    assert current["class_path"] == class_path and list(current["init_args"]) == ["prompt_sets"]
    assert list(current["init_args"]["prompt_sets"]) == ["benchmarks"], "the user's name of a set"
    own = {"class_path": "mine.Data", "init_args": {"benchmarks": {}}}
    assert with_current_names({"data": own}) == {"data": own}, "an argument of another class"
    assert with_current_names({"data": {"benchmarks": {}}}) == {"data": {"prompt_sets": {}}}  # an overlay
    words = ["--data.benchmarks.en.folder=x", "--data.init_args.benchmarks", "--data.benchmarks_too=1", "benchmarks"]
    assert current_words(words) == [
        "--data.prompt_sets.en.folder=x", "--data.init_args.prompt_sets", "--data.benchmarks_too=1", "benchmarks"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("modules.lm.plan", "modules.lm.resource_plan"),
        ("modules.codec.checkpoints", "modules.codec.formats.checkpoints"),
        ("datamodules.text_shards", "datamodules.shards.text_shards"),
    ],
)
def test_commands_run_under_their_old_name(old: str, new: str) -> None:
    """Guards against a documented command that is gone, or that does not print its new name."""
    done = subprocess.run(
        [sys.executable, "-m", old, "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120
    )
    assert f"python -m {new}" in done.stdout and f"`python -m {new}` now" in done.stderr
