"""`say --config FILE`: the options of `say` as keys of a yaml."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from modules.command.say import parser, read_arguments

WORDS = {
    "model": "runs/x", "codec": "c.ckpt", "voice": "me.wav", "voice-text": "1e3: yes # no", "speaker": "null x",
    "language": "de", "out": "o.wav", "srt": "o.srt", "best-of": "3", "search": "partial_prm_orm", "recogniser": "tiny",
    "temperature": "1e-1", "seed": "-7", "precision": "fp32", "device": "cpu", "num-threads": "2", "root": ".",
}  # fmt: skip


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Parses `say` with the options of a yaml, given as its text or its content, then words."""
    monkeypatch.chdir(tmp_path)

    def arguments(content: Any, *words: str) -> dict[str, Any]:
        Path("say.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        given = vars(read_arguments(["--config", "say.yaml", *words]))
        return {name: value for name, value in given.items() if name != "config"}

    return arguments


def test_every_option_is_a_key(read) -> None:
    """Guards against an option that a yaml cannot set, or whose value YAML reads as something else."""
    names = {name[2:] for action in parser()._actions for name in action.option_strings if name.startswith("--")}
    assert set(WORDS) == names - {"help", "config", "file", "stream", "raw", "verbose"}
    plain = vars(read_arguments(["four", *(f"--{name}={word}" for name, word in WORDS.items()), "--verbose"]))
    wanted = {name: value for name, value in plain.items() if name != "config"}
    assert read({**WORDS, "verbose": True, "stream": False, "raw": None}, "four") == wanted
    unquoted = "".join(f"{name.replace('-', '_')}: {word}\n" for name, word in WORDS.items() if name != "voice-text")
    assert read(f"{unquoted}voice-text: '{WORDS['voice-text']}'\nverbose: true", "four") == wanted
    assert read({"stream": True, "raw": True, "file": "x.txt"})["file"] == Path("x.txt")


def test_underscores_of_an_option_are_dashes() -> None:
    """Guards against `--num_threads`, which `fit` has, as a text to speak, and against a change of the texts."""
    given = read_arguments(["--num_threads=2", "--best_of", "3", "--voice_text", "a_b --c_d", "on_e"])
    assert (given.num_threads, given.best_of, given.voice_text, given.text) == (2, 3, "a_b --c_d", ["on_e"])


def test_the_command_line_overrides_a_yaml(read) -> None:
    """Guards against a yaml whose options exclude, or replace, those that were typed."""
    given = read({"seed": 1, "file": "x.txt", "out": "o.wav", "temperature": 0.5}, "two", "--seed=2")
    assert (given["seed"], given["temperature"], given["text"], given["file"]) == (2, 0.5, ["two"], None)
    assert read({"out": "o.wav", "srt": "o.srt"}, "two", "--stream")["out"] is None
    assert not read({"stream": True, "raw": True}, "two", "--out=o.wav")["stream"]
    Path("later.yaml").write_text("seed: 3")
    assert read("seed: 1\nlanguage: de", "two", "--config", "later.yaml")["seed"] == 3
    assert vars(read_arguments(["four", "--config", "say.yaml"]))["language"] == "de"


def test_a_file_is_looked_for_where_other_configs_are(read) -> None:
    given = read_arguments(["four", "--config", "configs/voice/say.yaml"])  # of the repository
    assert given.model == "runs/my_voice"
    Path("root").mkdir()
    Path("root/mine.yaml").write_text("seed: 5")
    assert read_arguments(["four", "--config", "mine.yaml", "--root", "root"]).seed == 5


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("best_off: 4", "--model, --codec".replace("--", "")),
        ("config: x.yaml", "got 'config'"),
        ("text: four", "got 'text'"),
        ("best-of: 0", "at least 1, but got '0'"),
        ("best-of: [4]", "one value for `best-of`"),
        ("stream: yes", "true or false, but got 'yes'"),
        ("four two", "lines such as"),
        ("a: [", "to be YAML"),
    ],
)
def test_an_error_is_one_line(content: str, told: str, read, capsys: pytest.CaptureFixture) -> None:
    """Guards against a misspelt key without any effect."""
    with pytest.raises(SystemExit) as stop:
        read(content, "four")
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and told in line
    with pytest.raises(SystemExit):
        read_arguments(["four", "--config", "none.yaml"])
    assert "none.yaml" in capsys.readouterr().err


def test_values_of_the_environment(read, monkeypatch) -> None:
    """Guards against a local folder that one command takes from the environment and another does not."""
    content = "model: ${oc.env:LLASA,HKUSTAudio/Llasa-1B}\ncodec: ${oc.env:XCODEC2,null}\nspeaker: a $b {c}"
    given = read(content, "two")
    assert (given["model"], given["codec"], given["speaker"]) == ("HKUSTAudio/Llasa-1B", None, "a $b {c}")
    monkeypatch.setenv("LLASA", "my folder")
    monkeypatch.setenv("XCODEC2", "1e3")
    assert (read(content, "two")["model"], read(content, "two")["codec"]) == ("my folder", "1e3")
    with pytest.raises(SystemExit):
        read("model: ${nothing}", "two")
