"""Messages of the parser in a user's words."""

import argparse
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

COMMANDS = ("fit", "validate", "test", "predict", "prepare", "say", "voices")


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, with the option that a mistyped one resembles. `prog` is the command
    without python."""

    def error(self, message: str) -> NoReturn:
        said = " ".join(plain_message(message, self._option_string_actions, ()).split())
        self.exit(2, f"error: {said} (`python {self.prog} --help` lists the options)\n")


def plain_message(message: str, options: Iterable[str], callback_keys: Sequence[str]) -> str:
    """The message, with what to write instead where that is known.

    Args:
        options: Those that the command has, with their dashes.
        callback_keys: Keys of callbacks with options of their own.
    """
    unknown = re.search(r"unrecognized arguments: --([\w.]+)|Option '(\S+)' is not accepted", message)
    if 'key "trainer.callbacks"' in message and "NestedArg" in message and unknown:
        keys = ", ".join(f"--{key}" for key in callback_keys)
        name = unknown[1] or unknown[2]
        return f"Expected an option of the last of `trainer.callbacks`, but got `{name}`. Others: {keys}."
    if 'Parser key "trainer.logger"' in message:
        return (
            "Expected a `trainer.logger` with a class_path, or options of the default logger, which has its own "
            "key: `--logger.init_args.name NAME` (configs/trainer.yaml)."
        )
    if wrong := re.search(r"argument subcommand: invalid choice: '(.*)' \(choose from", message):
        close = [f" Did you mean {one}?" for one in get_close_matches(wrong[1], COMMANDS, n=1)]
        return f"Expected one of {', '.join(COMMANDS)}, but got {wrong[1]!r}.{''.join(close)}"
    if missing := re.search(r"Parser key \"config\": File does not exist: '(.+)'", message):
        return f"Expected a config at {missing[1]}, but there is none.{similar_file(Path(missing[1]))}"
    if unknown and unknown[1] and (close := get_close_matches(f"--{unknown[1]}", list(options), n=1)):
        return f"{message}. Did you mean {close[0]}?"
    return message


def similar_file(path: Path) -> str:
    """A sentence with the most similar name in the folder; empty without one."""
    names = [one.name for one in path.parent.glob(f"*{path.suffix}")]
    close = get_close_matches(path.name, names, n=1)
    return f" Did you mean {path.with_name(close[0])}?" if close else ""
