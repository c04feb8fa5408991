"""Units of work on a shard folder: done once each, by any process of any machine that shares the file system.

A job has `FOLDER/.preparing`: plan.json (the fixed list of units), units/NAME.json (the result of each finished unit)
and locks. A unit writes its tars under temporary names, moves them to FOLDER/SPLIT/NAME.tar, and then writes its
result: a kill loses only units in work. Where the file system has no locks, two processes may do the same unit; both
write the same bytes.
"""

import fcntl
import json
import os
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from datamodules.shards.tar_samples import packed_sample, tar_end
from modules.atomic_file import write_whole

NAME = ".preparing"
WAIT_SECONDS = 0.2  # between looks at units in work elsewhere
# Columns of a result, one entry per kept sample. `paths` are tars, relative to the folder of the split; `abouts` are ""
# unless the audio stays in a tar of others.
COLUMNS = (
    "keys", "lengths", "text_lengths", "offsets", "sizes", "sources", "speakers", "languages", "licenses", "contents",
    "texts", "paths", "abouts",
)  # fmt: skip


@dataclass
class SplitRows:
    """Kept samples of one unit in one split, by column; `measures` by name."""

    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    measures: dict[str, list[float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["keys"])

    def add(self, row: dict[str, Any], measures: dict[str, float]) -> None:
        """Add one sample. A measure that earlier samples lack is NaN (None in JSON) for them."""
        for name in COLUMNS:
            self.columns[name].append(row[name])
        for name in self.measures.keys() | measures.keys():
            values = self.measures.setdefault(name, [])
            values += [None] * (len(self) - 1 - len(values))
            values.append(measures.get(name))


@dataclass
class UnitResult:
    """What a unit has made: rows by split, skipped samples as (key, reason), examples for a report as plain data."""

    splits: dict[str, SplitRows] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        splits = {name: {"columns": rows.columns, "measures": rows.measures} for name, rows in self.splits.items()}
        return {"splits": splits, "skipped": self.skipped, "examples": self.examples}

    @classmethod
    def read(cls, path: Path) -> "UnitResult":
        content = json.loads(path.read_text())
        splits = {name: SplitRows(**rows) for name, rows in content["splits"].items()}
        return cls(splits, [(key, reason) for key, reason in content["skipped"]], content["examples"])


class UnitFolder:
    """The state of a job in `folder`."""

    def __init__(self, folder: Path, name: str = NAME) -> None:
        self.folder, self.state = folder, folder / name

    @property
    def plan_path(self) -> Path:
        return self.state / "plan.json"

    def result_path(self, unit: str) -> Path:
        return self.state / "units" / f"{unit}.json"

    def is_done(self, unit: str) -> bool:
        return self.result_path(unit).is_file()

    def temporary(self, name: str) -> Path:
        """A path that no other process uses, on the folder's file system."""
        path = self.state / "temporary" / f"{name}.{socket.gethostname()}.{os.getpid()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def finish(self, unit: str, result: UnitResult, tars: dict[Path, Path]) -> None:
        """Move a unit's tars to their targets, and store its result; nothing, if the job has been merged meanwhile
        without this unit."""
        if not self.plan_path.is_file():
            return
        for path, target in tars.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        write_whole(self.result_path(unit), json.dumps(result.plain()))

    @contextmanager
    def locked(self, name: str, waits: bool = True, message: str = "") -> Iterator[bool]:
        """Hold a lock; yields whether it is held. Not if another process holds it and this one does not wait, nor if
        the job's state has been removed meanwhile. Without locks on the file system: True."""
        path = self.state / "locks" / name
        try:
            stream = path.open("w")
        except FileNotFoundError:
            yield False
            return
        with stream as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waits:
                    yield False
                    return
                if message:
                    print(message, flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError:
                pass  # a file system without locks
            try:
                yield True
            finally:
                with suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough while a forked child has the file open

    def begin(self) -> None:
        """Make the job's state, unless it is there."""
        (self.state / "locks").mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)


def work_through(
    folder: UnitFolder,
    units: Sequence[str],
    do: Callable[[str], None],
    waits: bool,
    is_needed: Callable[[str], bool],
    stops: Callable[[], bool],
) -> None:
    """Do every needed unit that is neither done nor in work elsewhere.

    Args:
        do: Does one unit, up to `UnitFolder.finish`.
        waits: Wait for units in work elsewhere, and do those whose process was killed.
        is_needed: Asked before a unit is begun.
        stops: Ends the work before the next unit.
    """
    left = [unit for unit in units if not folder.is_done(unit)]
    while left:
        elsewhere = []
        for unit in left:
            if stops():
                return
            if folder.is_done(unit) or not is_needed(unit):
                continue
            with folder.locked(f"unit-{unit}", waits=False) as is_mine:
                if not is_mine:
                    elsewhere.append(unit)
                elif folder.plan_path.is_file() and not folder.is_done(unit):
                    do(unit)
        if not waits or not folder.plan_path.is_file():
            return  # or another process has merged all
        left = elsewhere
        if left:
            time.sleep(WAIT_SECONDS)


class UnitTars:
    """The tars of one unit, for each split one or, of more than `samples_per_tar`, several; written under temporary
    names. Use as a context manager: without `close` they are removed."""

    def __init__(self, folder: UnitFolder, unit: str, samples_per_tar: int = 0) -> None:
        self.folder, self.unit, self.samples_per_tar = folder, unit, samples_per_tar
        self._open: dict[str, IO[bytes]] = {}
        self._num_samples: Counter[str] = Counter()
        self._written: dict[Path, tuple[str, str]] = {}  # split and name of each temporary file

    def write(self, split: str, key: str, files: dict[str, bytes]) -> tuple[str, int, int]:
        """Write one sample, with its files by extension. Returns the name of its tar, its offset and its size."""
        part, place = divmod(self._num_samples[split], self.samples_per_tar or sys.maxsize)
        name = f"{self.unit}-{part:04d}.tar" if part else f"{self.unit}.tar"
        if not place:
            self._close(split)
            path = self.folder.temporary(f"{split}-{name}")
            self._open[split], self._written[path] = path.open("wb"), (split, name)
        self._num_samples[split] += 1
        stream = self._open[split]
        start, content = stream.tell(), packed_sample(key, files)
        stream.write(content)
        return name, start, len(content)

    def _close(self, split: str) -> None:
        stream = self._open.pop(split, None)
        if stream is not None:
            with stream:  # a kill loses nothing that is written; for a power cut all tars are synced before the merge
                stream.write(tar_end(stream.tell()))

    def close(self) -> dict[Path, tuple[str, str]]:
        """Finish the tars. Returns split and name of each temporary file."""
        for split in list(self._open):
            self._close(split)
        written, self._written = self._written, {}
        return written

    def __enter__(self) -> "UnitTars":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._open.values():
            stream.close()
        for path in self._written:
            path.unlink(missing_ok=True)
