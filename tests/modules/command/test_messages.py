"""modules/command/messages.py: what an error says to do."""

import pytest

import run
from modules.command import prepare, say
from modules.command.messages import plain_message
from tests.conftest import REPOSITORY

CONFIG = str(REPOSITORY / "configs/demo/codec.yaml")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config", CONFIG, "--trainer.max_stepz=3"], "max_stepz=3. Did you mean --trainer.max_steps?"),
        (["--config", CONFIG.replace("codec", "codek")], "but there is none. Did you mean "),
    ],
)
def test_a_mistyped_option_or_config_names_the_right_one(words, said, capsys, monkeypatch) -> None:
    """Guards against a user who has to read a help of hundreds of lines."""
    monkeypatch.setattr("sys.argv", ["run.py"])
    with pytest.raises(SystemExit):
        run.main(["fit", *words])
    printed = capsys.readouterr().err
    assert said in printed and "fit --help` lists the options" in printed and "[options]" not in printed


def test_a_mistyped_command_names_all_of_them(capsys, monkeypatch) -> None:
    """Guards against a list of Lightning's four commands alone."""
    monkeypatch.setattr("sys.argv", ["run.py"])
    with pytest.raises(SystemExit):
        run.main(["prepar"])
    assert "fit, validate, test, predict, prepare, say, voices, but got 'prepar'. Did you mean prepare?" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(("command", "word"), [(say, "--bestof=3"), (prepare, "--num_process=3")])
def test_other_commands_name_the_right_option_too(command, word, capsys) -> None:
    """Guards against a mistyped option of `say` or `prepare` without its name, and against several lines."""
    with pytest.raises(SystemExit):
        command.parser().parse_args([word])
    (line,) = capsys.readouterr().err.splitlines()
    option = "--best-of" if command is say else "--num_processes"
    assert f"Did you mean {option}? (`python run.py {command.__name__.split('.')[-1]} --help`" in line


def test_an_option_that_resembles_none_is_left_as_it_is() -> None:
    message = "unrecognized arguments: --wxyz=3"
    assert plain_message(message, ["--trainer.max_steps"], []) == message
    assert plain_message("another", ["--another"], []) == "another"
