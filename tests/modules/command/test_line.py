"""Interpretation of the command line: texts, null, the addresses of callbacks, and paths given in another folder."""

import json
import os
import sys
from pathlib import Path
from typing import Literal

import pytest
import yaml
from lightning.pytorch import Callback

import run
from modules.command.line import dumped, enter_root, listed_texts, options_of
from modules.stage_config import CALLBACK_KEYS, changed_config
from tests.callbacks import test_synthesis
from tests.modules import test_stages
from tests.modules.test_stages import read_marker
from tests.test_configs import DryCLI, ParsingCLI

toys = test_stages.toys
command = test_synthesis.command
REPOSITORY = Path(__file__).resolve().parents[3]
DEMO = REPOSITORY / "configs/demo"
TEXTS = [
    "Hello: World.", "[four]", "1e3", "null", "${four}", "a: ${seed_everything}", "\\${x}", "{a: b}", "- two", "-two",
    "~", "12", "true", "&a", '"four"', "it's # four", " four\ntwo ", "None", "[laughs] Hello", "a.yaml", "x\t",
]  # fmt: skip


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["run.py"])
    monkeypatch.chdir(REPOSITORY)
    return lambda *words: ParsingCLI(list(words))


# ---------------------------------------------------------------------------------------------------------------- texts


def test_a_text_arrives_as_it_was_typed(parse, tmp_path: Path) -> None:
    """Guards against texts that are read as YAML or interpolated: when they are parsed, when the config of a checkpoint
    is parsed over them, in the marker of the stage, and in the config.yaml that a run leaves and another one reads."""
    for texts in (TEXTS[place : place + 3] for place in range(0, len(TEXTS), 3)):
        cli = parse(
            "predict", "--config", "configs/demo/synthesise.yaml", f"--data.init_args.text={texts[0]}",
            "--data.speaker", texts[1], "--speech.init_args.reference_text", texts[2],
        )  # fmt: skip

        def found(config) -> list:
            data, speech = config["data"]["init_args"], config["speech"]["init_args"]
            return [data["text"], data["speaker"], speech["reference_text"]]

        assert found(cli.config.predict) == texts
        if texts[0] not in TEXTS[:9]:
            continue  # the rest is slow
        cli._dump_config()
        assert found(cli.config_dump) == texts
        assert found(cli._read_stored_config(cli.config_dump)) == texts
        model = {"class_path": "modules.lm_module.LMModule", "dict_kwargs": {"recompute_activations": True}}
        again = cli.parser.parse_object({"predict": {"model": model}}, cli.config)  # as Lightning does
        assert found(again.predict) == texts and again.predict.model.init_args.recompute_activations
        cli.parser.save(cli.config, str(tmp_path / "all.yaml"), skip_unset=False, overwrite=True, multifile=False)
        saved = yaml.safe_load((tmp_path / "all.yaml").read_text())["predict"]
        (tmp_path / "saved.yaml").write_text(json.dumps(saved))  # JSON quotes 1e3
        assert found(parse("predict", "--config", str(tmp_path / "saved.yaml")).config.predict) == texts


def test_texts_of_a_yaml_are_strings_and_may_be_interpolated(parse, tmp_path: Path) -> None:
    """Guards against a quoted "null" taken for null, and against a yaml's `${...}` that stays unresolved."""
    overlay = tmp_path / "overlay.yaml"
    for written, wanted in [("null", None), ("'null'", "null"), ("'1e3'", "1e3"), ("'x ${seed_everything}'", "x 0")]:
        overlay.write_text(f"data: {{init_args: {{text: {written}}}}}")
        cli = parse("predict", "--config", "configs/demo/synthesise.yaml", "--config", str(overlay))
        assert cli.config.predict.data.init_args.text == wanted


class Speaking(Callback):
    """A user's class whose arguments have the names of texts and other types."""

    def __init__(
        self, speaker: int = 0, title: Literal["a", "b"] = "a", text: Path | None = None, reference_text: str = ""
    ) -> None:
        self.values = [speaker, title, text, reference_text]


def test_arguments_of_other_types_may_have_the_name_of_a_text(parse, tmp_path: Path) -> None:
    """Guards against placeholders that are checked against a number, a choice or a path, and that stay in a path."""
    (tmp_path / "own.yaml").write_text("spoken_texts: {class_path: tests.modules.command.test_line.Speaking}")
    for words, wanted in [
        ([], [0, "a", None, ""]),
        (["speaker=3", "title=b", "text=x/y", "reference_text=7"], [3, "b", Path("x/y"), "7"]),
        (["text=out/${seed_everything}"], [0, "a", Path("out/0"), ""]),
    ]:
        options = [f"--spoken_texts.{word}" for word in words]
        cli = DryCLI(["fit", "--config", "configs/demo/lm.yaml", "--config", str(tmp_path / "own.yaml"), *options])
        assert cli._get(cli.config_init, "spoken_texts").values == wanted
    folder = ["--data.text", "two", "--data.speaker", "[ann]", "--speech.folder", "out/${data.init_args.speaker}"]
    config = parse("predict", "--config", "configs/demo/synthesise.yaml", *folder).config.predict
    assert str(config.speech.init_args.folder) == "out/[ann]"


def test_a_text_is_spoken_as_typed(command: list[str]) -> None:
    """Guards against a text that reaches the model changed, and a `null` that does not reach `characters`."""
    tokenizer = "--data.init_args.prompt_format.init_args.tokenizer.init_args.characters"
    for text in ("Hello: World.", "null", "${four}"):
        run.main([*command, "--data.init_args.text", text, tokenizer, "null"])
    assert {json.loads(path.read_text())["text"] for path in Path("speech").glob("*.json")} == {
        "Hello: World.", "null", "${four}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("four two", ["four two"]),
        ("Hello: World.", ["Hello: World."]),
        ("[laughs] Hello", ["[laughs] Hello"]),
        ("[four two, nine]", ["four two", "nine"]),
        ("[1e3, null, Hello: World., 'it''s, quoted']", ["1e3", "null", "Hello: World.", "it's, quoted"]),
        ('["${four}", "[x]"]', ["${four}", "[x]"]),
    ],
)
def test_a_list_of_texts(typed: str, wanted: list[str]) -> None:
    """Guards against items that become numbers, None or mappings, and against one text that is not a list."""
    assert listed_texts("--texts", typed) == wanted


def test_lists_of_texts_arrive_as_they_were_typed(parse) -> None:
    """Guards against the same, on the way through the parser."""
    overlay = ["--config", "configs/demo/lm.yaml", "--config", "configs/demo/spoken_texts.yaml"]
    for typed, wanted in [("Hello: World.", ["Hello: World."]), ("[1e3, null, a: b]", ["1e3", "null", "a: b"])]:
        config = parse("fit", *overlay, "--spoken_texts.texts", typed).config.fit
        assert config.spoken_texts.init_args.texts == wanted


def test_a_list_that_cannot_be_read_is_refused(parse, capsys: pytest.CaptureFixture) -> None:
    """Guards against speaking the brackets."""
    overlay = ["--config", "configs/demo/lm.yaml", "--config", "configs/demo/spoken_texts.yaml"]
    with pytest.raises(SystemExit) as stop:
        parse("fit", *overlay, "--spoken_texts.texts", "[${four}, two]")
    assert stop.value.code == 2 and "Quote each of its texts" in capsys.readouterr().err


def test_other_strings_that_look_like_numbers_stay_strings(parse) -> None:
    """Guards against a name such as 1e3 that becomes a number once the config was dumped and parsed again; dumped
    strings must be read back by jsonargparse's and OmegaConf's number rules as by PyYAML's."""
    config = parse("test", "--config", "configs/demo/sweep.yaml", "--sweep.model_name", "1e3").config.test
    assert config.sweep.init_args.model_name == "1e3"
    values = {"a": "1e3", "b": "1.5e3", "c": 1e3, "d": 1e-5, "e": "e3", "f": None, "g": "null", "h": 7}
    assert yaml.safe_load(dumped(values)) == values
    assert "a: '1e3'" in dumped(values) and "b: '1.5e3'" in dumped(values) and "e: e3" in dumped(values)


# ----------------------------------------------------------------------------------------------------------------- null


def test_null_is_null(parse) -> None:
    """Guards against the string "None", at any depth and inside lists."""
    tokenizer = "--data.init_args.prompt_format.init_args.tokenizer.init_args.characters"
    config = parse(
        "predict", "--config", "configs/demo/synthesise.yaml", tokenizer, "null", "--data.init_args.language=null",
        "--speech.codec.init_args.semantic_model", "null", "--speech.selector.name", "null", "--speech.engine", "null",
        "--num_threads", "null",
    ).config.predict  # fmt: skip
    speech = config.speech.init_args
    assert config.data.init_args.prompt_format.init_args.tokenizer.init_args.characters is None
    assert config.data.init_args.language is None and config.num_threads is None
    assert speech.codec.init_args.semantic_model is None and speech.engine is None
    assert speech.selector.init_args.name is None
    sweep = parse(
        "test", "--config", "configs/demo/sweep.yaml",
        "--sweep.more_models", "[{class_path: modules.lm.saved_model.SavedModel, "
        "init_args: {name: x, source: y, revision: null}}]",
    ).config.test.sweep  # fmt: skip
    assert sweep.init_args.more_models[0].init_args.revision is None


# ----------------------------------------------------------------------------------------------- addresses of callbacks


def test_options_reach_their_callback_whatever_else_is_listed(parse, tmp_path: Path) -> None:
    """Guards against options that apply to whichever callback is the last."""
    more = "--trainer.callbacks+=callbacks.run_layout.RunLayout"
    options = ["--speech.algorithm.num_candidates", "3", "--speech.folder", str(tmp_path), "--speech.selector", "null"]
    for words in ([more, *options], [*options, more]):
        cli = DryCLI(["predict", "--config", "configs/demo/synthesise.yaml", *words])
        (speech,) = (one for one in cli.trainer.callbacks if type(one).__name__ == "SpeechWriter")
        assert (speech.algorithm.num_candidates, speech.folder, speech.selector) == (3, tmp_path, None)
        assert "RunLayout" in {type(one).__name__ for one in cli.trainer.callbacks}


@pytest.mark.parametrize("name", ["algorithm.num_candidates", "seed", "folder", "init_args.folder"])
def test_an_option_of_an_earlier_version_is_refused_in_one_line(
    name: str, parse, capsys: pytest.CaptureFixture
) -> None:
    """Guards against a screen of types, and against `folder`, which RunLayout has too: the sweep would go on writing
    into the demo's folder."""
    with pytest.raises(SystemExit):
        parse("test", "--config", "configs/demo/sweep.yaml", f"--trainer.callbacks.{name}", "3")
    (line, _) = capsys.readouterr().err.splitlines()
    assert name in line and "sweep" in line, line
    listed = ["--trainer.callbacks+=callbacks.run_layout.RunLayout", "--trainer.callbacks.folder=3"]
    parse("test", "--config", "configs/demo/sweep.yaml", *listed)


def test_a_list_of_an_older_config_goes_first(parse, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Guards against an overlay with its own callbacks that gets a second one of the same class."""
    text = (DEMO / "sweep.yaml").read_text().replace("../verifiers", str(DEMO.parent / "verifiers"))
    listed = yaml.safe_load(text)["sweep"]
    listed["init_args"]["seed"] = 7
    (tmp_path / "old.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [listed]}}))
    cli = DryCLI(["test", "--config", "configs/demo/sweep.yaml", "--config", str(tmp_path / "old.yaml")])
    (sweep,) = (one for one in cli.trainer.callbacks if type(one).__name__ == "InferenceScaling")
    assert sweep.seed == 7 and "sweep: left out" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["sweep", "tokenise"])
def test_a_marker_with_its_callbacks_in_one_list_stays_valid(name: str, parse) -> None:
    """Guards against moving every finished demo aside because its callbacks now have their own keys, and against
    overlooking a changed setting there."""
    subcommand = "predict" if name == "tokenise" else "test"
    printing = ("run_layout", "progress_bar")
    cli = parse(subcommand, "--config", f"configs/demo/{name}.yaml")
    cli._dump_config()
    new = json.loads(json.dumps(cli.config_dump, default=str))
    stored = json.loads(json.dumps(new))
    keyed = [one for key in CALLBACK_KEYS if (one := stored.pop(key)) and key not in printing]
    assert keyed
    stored["trainer"]["callbacks"] = [*reversed(keyed), *(stored["trainer"]["callbacks"] or [])]
    assert changed_config(stored, new, cli._read_stored_config) == []
    for one in keyed:  # as stored by a version without one of the arguments
        one["init_args"].pop("samples_per_shard", None), one["init_args"].pop("num_resamples", None)
    assert changed_config(stored, new, cli._read_stored_config) == []
    keyed[0]["init_args"]["folder"] = "elsewhere"
    assert changed_config(stored, new, cli._read_stored_config) == ["trainer.callbacks"]


# ---------------------------------------------------------------------------------------------------------------- paths


def test_a_run_from_another_folder_is_that_of_the_root(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against configs that only work in the repository, hashes that contain absolute paths, and looking up the
    user's files below the root."""
    root = toys / "root"
    root.mkdir()
    (root / "given.txt").write_text("5")
    monkeypatch.setenv("SUITE_ROOT", "replaced")
    monkeypatch.setattr("sys.argv", ["run.py", "predict", "--config", "first.yaml", "--root", "root"])
    enter_root()
    run.main()
    assert (root / "runs/toy/first/number.txt").read_text() == "10" and not (toys / "runs").exists()
    marker = json.loads((root / "runs/toy/first/stage_predict.json").read_text())
    assert list(marker["inputs"]) == ["given.txt"]
    assert os.environ["SUITE_ROOT"] == str(root) and sys.argv[2:] == [f"--config={toys / 'first.yaml'}"]
    words = list(sys.argv)  # what Lightning starts another rank with, in this rank's folder
    enter_root()
    assert sys.argv == words and Path.cwd() == root
    enter_root()
    run.main()
    assert read_marker("first", "predict")["finished"]


def test_which_options_name_something_in_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a new file written to the user's folder, and a word that happens to be a folder's name."""
    here, root = tmp_path / "here", tmp_path / "root"
    for folder in (here / "train", here / "recordings", root):
        folder.mkdir(parents=True)
    (here / "my.yaml").touch()
    monkeypatch.chdir(here)
    monkeypatch.setenv("SUITE_ROOT", str(root))
    typed = {
        "--config": "my.yaml", "--data.folder": "recordings", "--data.train_split": "train", "--speech.folder": "out",
        "--data.text": "my.yaml", "--sweep.engine": "configs/sweep/vllm.yaml",
        "--stage.folder": "runs/x", "--ckpt_path": str(root / "a.ckpt"),
    }  # fmt: skip
    monkeypatch.setattr("sys.argv", ["run.py", "fit", *[word for pair in typed.items() for word in pair], "--help"])
    enter_root()
    wanted = typed | {"--config": str(here / "my.yaml"), "--data.folder": str(here / "recordings")}
    wanted["--sweep.engine"] = str(REPOSITORY / "configs/sweep/vllm.yaml")
    assert options_of(sys.argv[1:]) == [("fit", None), *wanted.items(), ("--help", None)]
    below = root / "docs"
    below.mkdir()
    (root / "runs").mkdir()
    (root / "runs/a.ckpt").touch()
    monkeypatch.chdir(below)
    monkeypatch.setattr(
        "sys.argv", ["../run.py", "fit", "--print_config", "-c", "../runs/a.ckpt", "--data.text", "--x"]
    )
    enter_root()
    assert sys.argv[0] == str(root / "run.py"), "by which Lightning starts the other ranks"
    assert sys.argv[1:] == ["fit", "--print_config", "--config=runs/a.ckpt", "--data.text=--x"], "as typed in the root"
    monkeypatch.setattr("sys.argv", ["run.py", "fit", "--root", "nowhere"])
    with pytest.raises(SystemExit):
        enter_root()
