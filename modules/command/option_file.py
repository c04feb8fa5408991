"""Options of a command as keys of a yaml: `best-of: 4` for `--best-of 4`."""

import argparse
from pathlib import Path
from typing import Any

import yaml

NOTHING = ("", "null", "~")


def option_words(path: Path, options: argparse.ArgumentParser, left_out: set[str]) -> list[str]:
    """The words of a command line with the options of a yaml, in their order; `_` and `-` are one in keys. Values are
    read as typed (`yes`, 1e3), but for true and false of a flag; null leaves an option at its default. `${...}` is
    resolved as in the other configs: `${oc.env:LLASA,HKUSTAudio/Llasa-1B}`.

    Args:
        left_out: Keys that are read and passed over.

    Raises ValueError, with the known keys, for an unknown one; for a file that is no mapping, and for a `${...}` that
    leads to nothing; OSError.
    """
    try:
        content = yaml.load(path.read_text("utf-8"), yaml.BaseLoader)  # strings alone
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected `{path}` to be YAML, but got: {' '.join(str(error).split())}") from error
    if isinstance(content, dict) and "${" in str(content):
        content = _resolved(content, path)
    if not isinstance(content or {}, dict):
        raise ValueError(f"Expected `{path}` to hold lines such as `best-of: 4`, but got {content!r}.")
    known = {
        name[2:]: action
        for action in options._actions
        for name in action.option_strings
        if name.startswith("--") and name not in ("--help", "--config")
    }
    words = []
    for key, value in (content or {}).items():
        name = str(key).replace("_", "-")
        if name not in known:
            raise ValueError(f"Expected keys of `{path}` to be among {', '.join(known)}, but got {key!r}.")
        if name not in left_out:
            words += _words(f"--{name}", known[name].nargs == 0, value, path)
    return words


def _resolved(content: dict[str, Any], path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        values: Any = OmegaConf.to_container(OmegaConf.create(content), resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"Expected `${{...}}` of `{path}` to lead to a value, but got: {reason}") from error
    return {key: "" if value is None else value for key, value in values.items()}


def _words(option: str, is_flag: bool, value: Any, path: Path) -> list[str]:
    if not isinstance(value, str):
        raise ValueError(f"Expected one value for `{option[2:]}` of `{path}`, but got {value!r}.")
    if value in NOTHING:
        return []
    if not is_flag:
        return [f"{option}={value}"]
    if value not in ("true", "false"):
        raise ValueError(f"Expected `{option[2:]}` of `{path}` to be true or false, but got {value!r}.")
    return [option] if value == "true" else []
