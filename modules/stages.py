"""Stage: a run that is skipped when it is finished, resumed when it is not, and moved aside when its config changes.

A stage owns a folder. `stage_SUBCOMMAND.json` in it, the marker, holds the resolved config and the hashes of the
contents of the inputs; modules/stage_config.py says which changes of the config count. Nothing is ever deleted.
"""

import fcntl
import hashlib
import json
import pickle
import re
import resource
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import IO, Any

import torch

from modules.atomic_file import write_whole
from modules.stage_config import changed_config, changed_keys

NOT_STORED = ("stage", "config", "num_threads")  # they say where to write and how fast, not what comes out
CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SHARD_INDEX = ("index.json", "index.npz")

# What torch.load raises on a damaged file, and on one that pickles a class that is gone.
DAMAGED = (RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError)
UNREADABLE = (*DAMAGED, ImportError, AttributeError)


class StageFinished(Exception):
    """The stage ran to its end before, with this config and these inputs: there is nothing to do."""


@dataclass
class StageSettings:
    """The `stage` group of a config.

    Args:
        folder: Where everything that the run writes goes; it belongs to this stage alone.
        inputs: Files and folders of earlier stages; a change of their contents runs the stage again.
        outputs: What must exist for the stage to count as finished.
    """

    folder: Path
    inputs: list[Path] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)


@dataclass
class Marker:
    """What the marker file says: `seconds` of wall time over all attempts, `peak_gb` of memory (1e9 bytes).

    `hash` names the folder where it is moved aside; it decides nothing. `attempt_start` is a Unix time while an attempt
    runs, or where one ended without a word; otherwise 0.
    """

    hash: str
    config: dict[str, Any]
    inputs: dict[str, str]
    finished: bool = False
    seconds: float = 0.0
    peak_gb: float = 0.0
    date: str = ""
    attempt_start: float = 0.0


def content_hash(path: Path) -> str:
    """sha256 of a file; of the index, for a folder of shards; of the names and contents of all files, for another.

    Raises FileNotFoundError.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"Expected the input `{path}` of this stage to exist, but got nothing there. Is the name right? "
            f"{made_by(path)}"
        )
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    index = [path / name for name in SHARD_INDEX if (path / name).is_file()]
    files = index or sorted(file for file in path.rglob("*") if file.is_file())
    return _json_hash([(str(file.relative_to(path)), content_hash(file)) for file in files])


def made_by(path: Path) -> str:
    """A sentence that names the command of configs/ which makes a path: whose stage, or else whose data, has the folder
    that it lies in. Empty where there is none."""
    for pattern in (r"^stage:.*\n  folder: (\S+)", r"^    folder: (\S+)"):
        for config in sorted(CONFIGS.rglob("*.yaml")):
            text = config.read_text(encoding="utf-8")
            command, folder = re.match(r"# (fit|predict): ", text), re.search(pattern, text, re.MULTILINE)
            if command and folder and path.is_relative_to(folder[1]):
                return f"python run.py {command[1]} --config {config.relative_to(CONFIGS.parent)} makes what is there."
    return ""


def newest_checkpoint(folders: Iterable[Path]) -> Path | None:
    """The whole `*.ckpt` with the largest global step in the folders, or None where there is none at all.

    Of several at that step, `last.ckpt`. A run that was killed while it saved leaves a file cut short or a dangling
    link: those are passed over, and so are files of weights alone. Raises ValueError when nothing but such files is
    there, since a run must not start over in silence.
    """
    paths = [path for folder in folders if folder.is_dir() for path in folder.glob("*.ckpt")]
    steps = {path: step for path in paths if (step := global_step(path)) is not None}
    if paths and not steps:
        raise ValueError(
            f"Expected a whole checkpoint to resume from, but got only damaged ones ({', '.join(map(str, paths))}). "
            "Move them away to start from the first step."
        )
    return max(steps, key=lambda path: (steps[path], path.name == "last.ckpt", path.stat().st_mtime_ns), default=None)


def global_step(checkpoint: Path) -> int | None:
    """The step at which a file or a folder of shards was saved, or None where no run can resume from it.

    Weights are mapped, not read: milliseconds for gigabytes.
    """
    file = checkpoint / "meta.pt" if checkpoint.is_dir() else checkpoint  # of a folder, what is written last
    if not zipfile.is_zipfile(file):  # false where there is nothing
        return None
    try:
        # The run loads the same file, and as freely.
        content = torch.load(file, map_location="cpu", mmap=True, weights_only=False)
        return int(content["global_step"]) if checkpoint.is_dir() or "optimizer_states" in content else None
    except UNREADABLE:
        return None


def peak_gigabytes() -> float:
    """The largest resident set of this process, in 1e9 bytes. Not of children: Linux counts for any program that was
    started from here, were it `true`, what this process held when it started it."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class Stage:
    """One subcommand with one config in one folder.

    Args:
        settings: Folder, inputs and outputs.
        subcommand: fit, validate, test or predict.
        config: The resolved config of the run.
        read: Parses a stored config as today's code does, with the defaults of what it lacks.

    Raises (here):
        FileNotFoundError: An input is missing.
        ValueError: The folder holds the working folder, or another stage.
    """

    def __init__(
        self,
        settings: StageSettings,
        subcommand: str,
        config: Mapping[str, Any],
        read: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> None:
        self.folder = settings.folder
        self.outputs = settings.outputs
        self.subcommand = subcommand
        self.read = read
        self.marker_path = self.folder / f"stage_{subcommand}.json"
        self._lock: IO[str] | None = None
        if Path.cwd().is_relative_to(self.folder.resolve()):
            raise ValueError(f"Expected `stage.folder` to be a folder of its own, but got {self.folder}.")
        strangers = [path for path in sorted(self.folder.rglob("stage_*.json")) if path != self.marker_path]
        if strangers:
            raise ValueError(
                f"Expected `stage.folder` to belong to one stage, but got {strangers[0]} of another there. "
                "Name another: --stage.folder FOLDER."
            )
        config = plain({key: value for key, value in config.items() if key not in NOT_STORED})
        inputs = {str(path): content_hash(path) for path in settings.inputs}
        self.marker = Marker(_json_hash([subcommand, config, inputs]), config, inputs)

    @property
    def name(self) -> str:
        return self.folder.name

    def begin(self) -> str:
        """Make the folder ready and mark the stage as running. Returns a line that says what happens.

        Raises StageFinished, with a line that says so, when there is nothing to do; ValueError while another process
        runs in the folder.
        """
        self._acquire()
        earlier = self._read()
        changed = self._changed(earlier) if earlier else []
        line = f"{self.name}: {self.subcommand} starts"
        if earlier is not None and not changed:
            missing = [path for path in self.outputs if not path.exists()]
            if earlier.finished and not missing:
                raise StageFinished(
                    f"{self.name}: finished earlier ({self.folder}, {_duration(earlier.seconds)} on {earlier.date}), "
                    "skipping"
                )
            why = f"finished earlier, but {missing[0]} is gone" if earlier.finished else "unfinished"
            line = f"{self.name}: {why}, {self.subcommand} resumes"
            self.marker.peak_gb = earlier.peak_gb
            self.marker.seconds = earlier.seconds + self._lost_seconds(earlier)
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            line = self._move_aside(earlier, changed) + f"\n{line}"
        self.marker.attempt_start = time.time()
        self._write()
        return f"{line} in {self.folder}"

    def follow(self, timeout: float = 600.0) -> None:
        """What the other ranks do while rank 0 makes the folder ready. Raises StageFinished, TimeoutError."""
        deadline = time.monotonic() + timeout
        others: set[str] = set()  # a comparison parses a config: once for each marker that is read
        while (earlier := self._read()) is None or earlier.hash in others or self._changed(earlier):
            if earlier is not None:
                others.add(earlier.hash)
            if time.monotonic() > deadline:
                raise TimeoutError(f"Expected rank 0 to write {self.marker_path} in {timeout} s, but got nothing.")
            time.sleep(0.2)
        if earlier.finished and all(path.exists() for path in self.outputs):
            raise StageFinished(f"{self.name}: finished earlier, skipping")

    def finish(self) -> str:
        """Mark the stage as finished. Returns a line that says so. Raises FileNotFoundError: an output is missing."""
        missing = [path for path in self.outputs if not path.exists()]
        if missing:
            raise FileNotFoundError(f"Expected the stage to write {missing[0]}, but got nothing there.")
        self.marker.seconds += time.time() - self.marker.attempt_start
        self.marker.peak_gb = max(self.marker.peak_gb, peak_gigabytes())
        self.marker.finished, self.marker.date, self.marker.attempt_start = True, date.today().isoformat(), 0.0
        self._write()
        return f"{self.name}: finished in {_duration(self.marker.seconds)}, peak {self.marker.peak_gb:.1f} GB"

    def pause(self, why: str) -> str:
        """Mark the attempt as over and the stage as unfinished. Returns a line that says so."""
        self.marker.seconds += time.time() - self.marker.attempt_start
        self.marker.peak_gb = max(self.marker.peak_gb, peak_gigabytes())
        self.marker.attempt_start = 0.0
        self._write()
        return f"{self.name}: unfinished ({why}); the same command resumes it"

    def release(self) -> None:
        """Let other processes use the folder. The end of a process, however it comes, does the same."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _acquire(self) -> None:
        """Lock a file beside the folder: a second run would move the folder of the first away under its feet."""
        path = self.folder.with_name(f".{self.name}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise ValueError(f"Expected no other run in {self.folder}, but got one that is still going.") from None

    def _lost_seconds(self, earlier: Marker) -> float:
        """How long an attempt ran that ended without a word (killed, out of memory): until its last write."""
        if not earlier.attempt_start:
            return 0.0
        last_write = max(path.lstat().st_mtime for path in self.folder.rglob("*"))
        return max(0.0, last_write - earlier.attempt_start)

    def _changed(self, earlier: Marker) -> list[str]:
        """What differs from an earlier run, so that its results are not those of this one."""
        if earlier.hash == self.marker.hash:
            return []
        changed = changed_config(earlier.config, self.marker.config, lambda config: plain(self.read(config)))
        return changed + changed_keys(earlier.inputs, self.marker.inputs)

    def _move_aside(self, earlier: Marker | None, changed: list[str]) -> str:
        label = earlier.hash[:8] if earlier else "unmarked"
        target = self.folder.with_name(f"{self.name}.superseded-{label}")
        number = 1
        while target.exists():
            number += 1
            target = self.folder.with_name(f"{self.name}.superseded-{label}-{number}")
        self.folder.rename(target)
        why = "its folder was made without a marker"
        if earlier:
            why = f"changed since: {', '.join(changed[:5])}{', ...' if len(changed) > 5 else ''}"
        return f"{self.name}: {why}; the earlier run is kept in {target}"

    def _read(self) -> Marker | None:
        try:
            content = json.loads(self.marker_path.read_text())
            names = {one.name for one in fields(Marker)}
            return Marker(**{name: value for name, value in content.items() if name in names})
        except (OSError, ValueError, TypeError, AttributeError):
            return None  # none yet, or of another version: the folder is then moved aside

    def _write(self) -> None:
        write_whole(self.marker_path, json.dumps(asdict(self.marker), indent=1))


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Through JSON and back, so that it compares equal to what a marker file gives."""
    return json.loads(json.dumps(config, default=str))


def _json_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
