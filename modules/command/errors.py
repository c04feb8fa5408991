"""Output of a failed command: one line for an error that the user can correct, the frames of the user's own code for a
crash there, else Python's traceback."""

import errno
import linecache
import re
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
STANDARD_LIBRARY = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})
PACKAGES = ("site-packages", "dist-packages")
TOLD = (ValueError, TypeError, OSError, RuntimeError, ImportError)
LIGHTNINGS = "MisconfigurationException"  # by name: importing Lightning takes seconds, and `say` does not need it
MAX_MISFITS = 3  # number of tensors that are named if a checkpoint does not fit

NO_FOLDER = "A file stands where a folder is wanted: remove it, or name another place."
NOT_ALLOWED = "Change its permissions, or name another place."
FULL = "Free some space, or name a place on another disk."
REMEDIES = {
    errno.EACCES: NOT_ALLOWED,
    errno.EPERM: NOT_ALLOWED,
    errno.EROFS: NOT_ALLOWED,
    errno.EEXIST: NO_FOLDER,
    errno.ENOTDIR: NO_FOLDER,
    errno.EISDIR: "A folder stands where a file is wanted: name a file.",
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
}


@dataclass(frozen=True)
class Failure:
    """The text to print and the exit status: 2 for an error that the user can correct, 1 for a crash of own code."""

    text: str
    status: int


@dataclass(frozen=True)
class _Frame:
    file: str
    line: int

    @property
    def raises(self) -> bool:
        """Whether its line is a `raise`, so that the message is written for users."""
        return linecache.getline(self.file, self.line).strip().startswith("raise ")

    @property
    def is_ours(self) -> bool:
        return Path(self.file).is_relative_to(REPOSITORY) and not self._is_installed

    @property
    def is_lightnings(self) -> bool:
        return self._is_installed and {"lightning", "lightning_utilities"} & set(Path(self.file).parts) != set()

    @property
    def is_users(self) -> bool:
        """A file of the user's own, outside the repository."""
        is_pythons = self.file.startswith(("<", *STANDARD_LIBRARY)) or "torchinductor" in self.file  # compiled code
        return not (self.is_ours or self._is_installed or is_pythons)

    @property
    def _is_installed(self) -> bool:
        return not set(PACKAGES).isdisjoint(Path(self.file).parts)


def failure(error: BaseException) -> Failure | None:
    """The failure to report, or None for an unexpected error in our code, which needs the traceback."""
    for one in _causes(error):
        frames, message = _frames(one)
        users = [frame for frame in frames if frame.is_users]
        if (line := _one_line(one, frames, message)) is not None:
            place = f" ({users[-1].file}, line {users[-1].line})" if users else ""
            return Failure(f"error: {' '.join(line.split())}{place}\n(LOGLEVEL=DEBUG shows where it comes from)", 2)
    for one in _causes(error):
        if (text := _users_traceback(one)) is not None:
            return Failure(text, 1)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _frames(error: BaseException) -> tuple[list[_Frame], str]:
    """The frames, outermost first, and the message. An error of a loader's worker contains both as text."""
    frames = [_Frame(one.filename, one.lineno or 0) for one in traceback.extract_tb(error.__traceback__)]
    message = str(error)
    if message.startswith("Caught ") and "\nOriginal Traceback" in message:
        frames = [_Frame(file, int(line)) for file, line in re.findall(r'^  File "(.+)", line (\d+)', message, re.M)]
        message = re.split(rf"^(?:\w+\.)*{type(error).__name__}: ", message, flags=re.M)[-1]
    return frames, message


def _one_line(error: BaseException, frames: list[_Frame], message: str) -> str | None:
    if isinstance(error, OSError) and error.errno and error.filename is not None:
        return f"Expected to use `{error.filename}`, but got: {error.strerror}. {REMEDIES.get(error.errno, '')}"
    if isinstance(error, FileNotFoundError) and message:
        return message
    if isinstance(error, ModuleNotFoundError) and error.name and find_spec(error.name.split(".")[0]) is None:
        return f"Expected the Python package `{error.name.split('.')[0]}`, but it is not installed."
    if isinstance(error, KeyError) and error.args == ("pytorch-lightning_version",):
        return (
            "Expected `ckpt_path` to be a checkpoint of Lightning, but got a file without its version: weights alone?"
        )
    if isinstance(error, RuntimeError) and message.startswith("Error(s) in loading state_dict"):
        misfits = [line.strip() for line in message.splitlines()[1:]]
        more = f" And {len(misfits) - MAX_MISFITS} more." if len(misfits) > MAX_MISFITS else ""
        return f"Expected a checkpoint that fits the model, but got: {' '.join(misfits[:MAX_MISFITS])}{more}"
    is_told = isinstance(error, TOLD) or type(error).__name__ == LIGHTNINGS
    if is_told and frames and frames[-1].raises:
        last = frames[-1]
        return message if last.is_ours or last.is_lightnings or last.is_users else None
    return None


def _users_traceback(error: BaseException) -> str | None:
    """The traceback from the first frame of the user's own code, or None without one."""
    entries = traceback.extract_tb(error.__traceback__)
    first = next((n for n, one in enumerate(entries) if _Frame(one.filename, one.lineno or 0).is_users), None)
    if first is None:
        return None
    lines = [*traceback.format_list(entries[first:]), *traceback.format_exception_only(error)]
    return f"Traceback from {entries[first].filename} on (LOGLEVEL=DEBUG shows all of it):\n{''.join(lines).rstrip()}"
