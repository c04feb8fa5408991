"""Reads the command line: texts as typed, `null` as null, paths relative to the working folder.

jsonargparse reads every value as YAML, and the whole config again after `${...}` is resolved: `Hello: World.` becomes
a mapping, `null` None, `1e3` a number. During parsing, a placeholder therefore replaces each text.
"""

import ast
import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, get_args

import yaml
from jsonargparse import Namespace

from modules.moved_names import current_words

REPOSITORY = Path(__file__).resolve().parents[2]
TEXTS = {"text", "reference_text", "speaker", "title"}  # arguments of that name, of any class
LISTS_OF_TEXTS = {"texts"}
HIDDEN = re.compile("\ue000text([0-9]+)\ue001")  # private characters: nobody types them
# Options that name a file or folder without a slash or a suffix in its name.
PATH_NAME = re.compile(r"(folder|path|dir|file|reference|config)$")


class HiddenTexts:
    """The texts of one command, each with a placeholder that neither YAML nor OmegaConf changes."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.printed = False  # `--print_config`: the texts themselves are printed

    def hide_options(self, args: Sequence[str]) -> list[str]:
        """The arguments with every text hidden. Raises ValueError if a list of texts is not a YAML list."""
        hidden = []
        self.printed |= any(word.startswith("--print_config") for word in args)
        for option, value in options_of(args):
            name = name_of(option)
            if value is not None and name in TEXTS and is_changed_by_reading(value):
                value = self.hide_text(value)
            elif value is not None and name in LISTS_OF_TEXTS and not HIDDEN.search(value):
                value = json.dumps([self.hide_text(text) for text in listed_texts(option, value)], ensure_ascii=False)
            hidden.append(option if value is None else f"{option}={value}")
        return hidden

    def hide(self, config: Any, resolved: bool) -> Any:
        """A copy of a config with its texts hidden; before it is resolved, only texts without `${`."""

        def hidden(name: str, value: Any) -> Any:
            if isinstance(value, list) and name in LISTS_OF_TEXTS:
                return [hidden("text", item) for item in value]
            is_text = isinstance(value, str) and name in TEXTS and (resolved or "${" not in value)
            return self.hide_text(value) if is_text and is_changed_by_reading(value) else value

        return with_leaves(config, hidden)

    def hide_text(self, text: str) -> str:
        if HIDDEN.fullmatch(text):
            return text
        self.texts.append(text)
        return f"\ue000text{len(self.texts) - 1}\ue001"

    def show(self, config: Any) -> Any:
        """The inverse of `hide`, also of placeholders inside longer strings."""

        def shown(name: str, value: Any) -> Any:
            return type(value)(self.show_text(str(value))) if isinstance(value, str | Path) else value

        return with_leaves(config, shown)

    def show_text(self, text: str, written: Callable[[str], str] = str) -> str:
        return HIDDEN.sub(lambda match: written(self.texts[int(match[1])]), text)


CURRENT: ContextVar[HiddenTexts | None] = ContextVar("hidden texts of the command that is being parsed", default=None)


@contextlib.contextmanager
def hidden_texts() -> Iterator[HiddenTexts]:
    """The texts of the command that is being parsed, or those of a new command."""
    if (texts := CURRENT.get()) is not None:
        yield texts
        return
    token = CURRENT.set(texts := HiddenTexts())
    try:
        yield texts
    finally:
        CURRENT.reset(token)


def with_leaves(config: Any, change: Callable[[str, Any], Any], name: str = "") -> Any:
    """A copy of a nested config, every leaf and list put through `change(name of the argument, value)`."""
    config = change(name, config)
    if isinstance(config, Namespace):
        copy = Namespace()
        vars(copy).update({key: with_leaves(value, change, key) for key, value in vars(config).items()})
        return copy
    if isinstance(config, dict):
        return {key: with_leaves(value, change, str(key)) for key, value in config.items()}
    return [with_leaves(item, change) for item in config] if isinstance(config, list) else config


def is_changed_by_reading(text: str) -> bool:
    """Whether reading a string as an option's value changes it: as YAML, by interpolation or by renamed classes."""
    if current_words([text]) != [text] or "$" in text or "\\" in text or number_pattern().fullmatch(text):
        return True
    try:
        return yaml.safe_load(text) != text
    except yaml.YAMLError:
        return True


def admits_text(hint: Any) -> bool:
    """Whether a string may be the value of an argument of that type, or an item of it."""
    return hint in (None, Any, str) or any(map(admits_text, get_args(hint)))


def options_of(args: Sequence[str]) -> list[tuple[str, str | None]]:
    """Each argument as (option, value), for `--a=b` and `--a b`; (word, None) for a word that is not an option and for
    an option without a value."""
    pairs: list[tuple[str, str | None]] = []
    words = list(args)
    while words:
        option, equals, value = (word := words.pop(0)).partition("=")
        if word == "-c":
            option = word = "--config"
        if not word.startswith("--"):
            pairs.append((word, None))
        elif equals:
            pairs.append((option, value))
        else:
            takes_none = not words or word.startswith(("--help", "--print_config"))
            is_value = not takes_none and (name_of(word) in TEXTS or not words[0].startswith("--"))
            pairs.append((word, words.pop(0) if is_value else None))
    return pairs


def name_of(option: str) -> str:
    """The name of the argument that an option sets."""
    return option.rpartition(".")[2].removeprefix("--").removesuffix("+")


def listed_texts(option: str, value: str) -> list[str]:
    """The texts of a YAML list as typed; another value is one text."""
    if not (value.strip().startswith("[") and value.strip().endswith("]")):
        return [value]
    try:
        node = yaml.compose(value, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        raise ValueError(f"Expected `{option}` to be a YAML list, but got {value}. Quote each of its texts.") from None
    items = node.value  # `Hello: World.` without quotes is a mapping there
    return [
        item.value if isinstance(item, yaml.ScalarNode) else value[item.start_mark.index : item.end_mark.index]
        for item in items
    ]


def as_yaml(argument: str) -> str:
    """`--key=VALUE` with a Python literal as YAML. jsonargparse converts the value of a nested option with `str`, which
    makes null the string "None", also inside a list."""
    key, _, value = argument.partition("=")
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return argument
    return f"{key}={json.dumps(literal)}" if literal is None or isinstance(literal, list | dict) else argument


@cache
def yaml_dumper() -> type[yaml.SafeDumper]:
    """A dumper that quotes strings which jsonargparse reads as numbers, such as 1e3 and 1.5e3; PyYAML does not."""

    class Dumper(yaml.SafeDumper):
        pass

    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", number_pattern(), list("-+0123456789"))
    return Dumper


@cache
def number_pattern() -> re.Pattern[str]:
    """Numbers in jsonargparse's YAML that PyYAML reads as strings."""
    return re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$")


def quoted(text: str) -> str:
    """A text as a YAML string in which OmegaConf resolves nothing."""
    return json.dumps(re.sub(r"(\\*)\$\{", r"\1\1\\${", text), ensure_ascii=False)


def dumped(config: Any) -> str:
    """A config as YAML that is read back unchanged."""
    return yaml.dump(config, Dumper=yaml_dumper(), default_flow_style=False, allow_unicode=True, sort_keys=False)


def unresolved(error: Exception) -> str:
    """An error of OmegaConf about a `${...}`, on one line."""
    message = " ".join(str(error).split())
    found = re.search(r"Environment variable '(\w+)' not found.* full_key: (\S+)", message)
    if found is None:
        return message
    return f"Expected {found[1]} in the environment, as the value of `{found[2]}`: {found[1]}=... python run.py ..."


def root_folder(given: Path | str | None) -> Path:
    """The folder of `runs`: the given one, else $SUITE_ROOT, else the repository. Raises FileNotFoundError."""
    root = Path(given or os.environ.get("SUITE_ROOT") or REPOSITORY).resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"Expected `--root` to be a folder, but got {root}.")
    return root


def enter_root() -> None:
    """Change to the root (`--root`, else $SUITE_ROOT, else the repository) and adapt the paths in `sys.argv`.

    Relative paths inside configs and the output of a run start at the root, whatever the working folder. A file or
    folder that an option names is looked for in the working folder, below the root, then in the repository; that of
    $FOLDER in the working folder.

    Raises SystemExit if the root does not exist.
    """
    pairs, here = options_of(sys.argv[1:]), Path.cwd()
    roots = [str(value) for option, value in pairs if option == "--root"]
    try:
        root = root_folder(roots[-1] if roots else None)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    if roots:
        os.environ["SUITE_ROOT"] = str(root)  # other ranks start with `sys.argv` in this rank's folder
    words = [word for option, value in pairs if option != "--root" for word in _below(root, here, option, value)]
    if folder := os.environ.get("FOLDER"):  # configs may name it
        os.environ["FOLDER"] = str(here / Path(folder).expanduser())
    sys.argv[0] = os.path.abspath(sys.argv[0])  # other ranks are started by it, below the root
    sys.argv[1:] = words
    os.chdir(root)


def _below(root: Path, here: Path, option: str, value: str | None) -> list[str]:
    """The words of an option for use below the root: a path to something elsewhere becomes absolute."""
    name = name_of(option)
    if value is None:
        return [option]
    is_path = "/" in value or Path(value).suffix or PATH_NAME.search(name)
    if value and is_path and name not in TEXTS | LISTS_OF_TEXTS:
        with contextlib.suppress(OSError):  # longer than a name may be
            found = next((place for place in (here, root, REPOSITORY) if (place / value).exists()), root)
            path = Path(os.path.abspath(found / value))  # as typed below the root: a stage's marker holds the words
            if found.resolve() != root:
                value = str(path.relative_to(root) if path.is_relative_to(root) else path)
    return [f"{option}={value}"]
