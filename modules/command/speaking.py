"""The commands of run.py that speak and need no Trainer: `say` and `voices`."""

import importlib
import os
import sys
from collections.abc import Sequence

from modules.command.errors import failure

MODULES = {"say": "modules.command.say", "voices": "modules.command.voices"}


def is_speaking(words: Sequence[str]) -> bool:
    """Whether the words of a command line are one of these commands."""
    return bool(words) and words[0] in MODULES


def run(words: Sequence[str]) -> int:
    """Run the command. Returns the exit status: 0, 2 after an error that the user can correct, 1 for a crash of the
    user's own code, 130 after Ctrl-C."""
    try:
        return importlib.import_module(MODULES[words[0]]).main(words[1:])
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        told = failure(error)
        if told is None or os.environ.get("LOGLEVEL", "").upper() == "DEBUG":
            raise
        print(told.text if told.status == 1 else told.text.splitlines()[0], file=sys.stderr)
        return told.status
