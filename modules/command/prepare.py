"""`python run.py prepare`: makes the shards that a config's data reads, in several processes or on several machines."""

import argparse
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, Protocol

from modules.command.messages import OneLineParser
from modules.stages import StageSettings, next_line

WHOLE = (0, 1)  # share 0 of 1
DESCRIPTION = """\
Prepare the shards of a config's `data`. What is prepared already is kept, so the same command resumes.

Configs and their options are those of `fit`, later ones override earlier ones; a `model` is not needed.
"""
EXAMPLES = """\
examples:
  python run.py prepare --config configs/demo/codec.yaml
  python run.py prepare --config FILE --hours 10 --data.init_args.folder FOLDER
  python run.py prepare --config FILE --share 3/10 --num_processes 16     on the third of ten machines
"""


class ReadConfig(Protocol):
    """A command line that was read: the data, and the `stage` of the config, or None."""

    datamodule: Any
    settings: Any


def share(word: str) -> tuple[int, int]:
    """K/N, counted from 1, as (k, n), counted from 0. Raises ArgumentTypeError."""
    found = re.fullmatch(r"(\d+)/(\d+)", word)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"Expected K/N with K from 1 to N, such as 3/10, but got {word!r}.")
    return int(found[1]) - 1, int(found[2])


def count(word: str) -> int:
    """A whole number of at least 1. Raises ArgumentTypeError."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"Expected a whole number of at least 1, but got {word!r}.")
    return int(word)


def parser() -> OneLineParser:
    options = OneLineParser(
        prog="run.py prepare",
        usage="%(prog)s --config FILE [--num_processes N] [--share K/N] [--hours H] [OPTION OF THE CONFIG ...]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    options.add_argument("--num_processes", type=count, metavar="N", help="default: one for each core")
    options.add_argument("--share", type=share, default=WHOLE, metavar="K/N", help="prepare the Kth of N shares alone")
    options.add_argument("--hours", metavar="H", help="as --data.init_args.hours H: about so much audio; 0: all")
    return options


def prepare(words: Sequence[str], read: Callable[[list[str]], ReadConfig]) -> int:
    """Prepare the data of a config. Returns the exit status: 0, or a shell's for the signal that ended it.

    Args:
        words: The command line after `prepare`.
        read: Reads the options of `fit`.

    Raises:
        ValueError: The config's data cannot be prepared.
        SystemExit: The command line is wrong.
    """
    options = parser()
    given, others = options.parse_known_args(words)
    if not any(word.startswith(("--config", "-c", "--data")) for word in others):
        options.error("Expected `--config FILE`, but got none.")
    hours = [] if given.hours is None else [f"--data.init_args.hours={given.hours}"]
    try:
        with terminable():
            config = read(["fit", *others, *hours])
            data = config.datamodule
            if not callable(getattr(data, "prepare", None)):
                raise ValueError(
                    f"Expected `data` with a method `prepare`, such as AudioDataModule, but got {type(data).__name__}, "
                    "which prepares nothing: another command makes what it reads."
                )
            data.prepare(num_processes=given.num_processes or num_cores(), share=given.share)
    except (KeyboardInterrupt, Terminated) as stop:
        print("\nStopped. The same command resumes.", file=sys.stderr, flush=True)
        return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
    line = "" if config.settings is None else next_line(StageSettings(**config.settings.as_dict()))
    if line and given.share == WHOLE:  # the other shares may not be ready
        print(f"prepared{line}", flush=True)
    return 0


def num_cores() -> int:
    """Number of CPU cores that this process may use: fewer than the machine's in a SLURM job or under taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Terminated(BaseException):
    """SIGTERM has arrived. As KeyboardInterrupt, it is no Exception."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated on SIGTERM in this process; a forked child ends as by default."""
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
