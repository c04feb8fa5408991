"""Stage: a run that is skipped if finished, resumed if unfinished, and moved aside if its config has changed.

A stage owns a folder. The marker in it, `stage_SUBCOMMAND.json`, holds the resolved config and hashes of the inputs;
modules/stage_config.py defines which changes of the config count. Nothing is ever deleted.
"""

import fcntl
import hashlib
import itertools
import json
import pickle
import re
import resource
import shlex
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import IO, Any

import torch

from modules.atomic_file import write_whole
from modules.stage_config import STORED_IF_SET, changed_config, changed_keys

NOT_STORED = ("stage", "config", "num_threads")  # output folder and speed, not results
CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SHARD_INDEX = ("index.json", "index.npz")
EXAMPLE_TEXTS, EXAMPLE_WORDS = 100, 12

# Errors of torch.load for a damaged file, and for one with a pickled class that no longer exists.
DAMAGED = (RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError)
UNREADABLE = (*DAMAGED, ImportError, AttributeError)


class StageFinished(Exception):
    """The stage has finished earlier with this config and these inputs."""


@dataclass
class StageSettings:
    """The `stage` group of a config.

    Args:
        folder: Output folder of the run; no other stage may use it.
        inputs: Files and folders of earlier stages; a change of their contents runs the stage again.
        outputs: Files and folders that must exist for the stage to count as finished.
        next: Command that follows, printed at the end; `{text}` is one of the texts in the shards of `inputs`.
    """

    folder: Path
    inputs: list[Path] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)
    next: str = ""


@dataclass
class Marker:
    """Content of the marker file: `seconds` of wall time over all attempts, `peak_gb` of memory (1e9 bytes).

    `hash` is only part of the name of a folder that is moved aside. `attempt_start` is a Unix time while an attempt
    runs, or after one that was killed; otherwise 0.
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
    """sha256 of a file, of the index of a folder of shards, or of the names and contents of another folder's files.

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


def next_line(settings: StageSettings) -> str:
    """A line with the command that follows a stage, or ""."""
    command = settings.next
    if "{text}" in command:
        command = command.replace("{text}", shlex.quote(example_text(settings.inputs)))
    return f"\n    {command}" if command else ""


def example_text(folders: Iterable[Path]) -> str:
    """The first text without digits (which are spoken as words) in the first of the folders that has shards, up to
    EXAMPLE_WORDS of its words; "Hello." if there is none."""
    texts: list[str] = []
    for folder in (one for one in folders if all((one / name).is_file() for name in SHARD_INDEX)):
        with tarfile.open(folder / json.loads((folder / SHARD_INDEX[0]).read_text())["shards"][0]) as tar:
            samples = (tar.extractfile(file) for file in tar if file.name.endswith(".json"))
            texts = [str(json.load(one).get("text", "")) for one in itertools.islice(samples, EXAMPLE_TEXTS) if one]
        break
    plain = [text for text in texts if text.strip() and not any(map(str.isdigit, text))]
    return " ".join((plain or ["Hello."])[0].split()[:EXAMPLE_WORDS])


def made_by(path: Path) -> str:
    """A sentence with the command of configs/ that writes a path: the one whose stage, or else whose data, has a folder
    that contains it. Empty if there is none."""
    for pattern in (r"^stage:.*\n  folder: (\S+)", r"^    folder: (\S+)"):
        for config in sorted(CONFIGS.rglob("*.yaml")):
            text = config.read_text(encoding="utf-8")
            command, folder = re.match(r"# (fit|predict|prepare): ", text), re.search(pattern, text, re.MULTILINE)
            if command and folder and path.is_relative_to(folder[1]):
                return f"python run.py {command[1]} --config {config.relative_to(CONFIGS.parent)} makes what is there."
    return ""


def newest_checkpoint(folders: Iterable[Path]) -> Path | None:
    """The complete `*.ckpt` with the largest global step in the folders, or None if there are no checkpoints.

    `last.ckpt` is preferred among several at that step. Truncated files and dangling links, which a run leaves if it is
    killed while saving, are ignored, and so are files with weights only. Raises ValueError if there are only such
    files: a run must not start over silently.
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
    """The step at which a file or a folder of shards was saved, or None if no run can resume from it.

    Weights are memory-mapped, not read: milliseconds for gigabytes.
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
    """Peak resident memory of this process, in 1e9 bytes. Children are excluded: for each, Linux counts the memory that
    this process had when it started the child."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class Stage:
    """One subcommand with one config in one folder.

    Args:
        settings: Folder, inputs and outputs.
        subcommand: fit, validate, test or predict.
        config: The resolved config of the run.
        read: Parses a stored config with the current code, which adds the defaults of missing arguments.

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
        self.folder, self.settings = settings.folder, settings
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
        unset = {key for key in STORED_IF_SET if config.get(key) is None}
        config = plain({key: value for key, value in config.items() if key not in {*NOT_STORED, *unset}})
        inputs = {str(path): content_hash(path) for path in settings.inputs}
        self.marker = Marker(_json_hash([subcommand, config, inputs]), config, inputs)

    @property
    def name(self) -> str:
        return self.folder.name

    def begin(self) -> str:
        """Prepare the folder and mark the stage as running. Returns a message for the user.

        Raises StageFinished if the stage has finished earlier, ValueError while another process runs in the folder.
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
                    f"skipping{next_line(self.settings)}"
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
        """Wait, on other ranks, until rank 0 has prepared the folder. Raises StageFinished, TimeoutError."""
        deadline = time.monotonic() + timeout
        others: set[str] = set()  # markers compared so far: a comparison parses a config
        while (earlier := self._read()) is None or earlier.hash in others or self._changed(earlier):
            if earlier is not None:
                others.add(earlier.hash)
            if time.monotonic() > deadline:
                raise TimeoutError(f"Expected rank 0 to write {self.marker_path} in {timeout} s, but got nothing.")
            time.sleep(0.2)
        if earlier.finished and all(path.exists() for path in self.outputs):
            raise StageFinished(f"{self.name}: finished earlier, skipping")

    def finish(self) -> str:
        """Mark the stage as finished. Returns a message. Raises FileNotFoundError if an output is missing."""
        missing = [path for path in self.outputs if not path.exists()]
        if missing:
            raise FileNotFoundError(f"Expected the stage to write {missing[0]}, but got nothing there.")
        self.marker.seconds += time.time() - self.marker.attempt_start
        self.marker.peak_gb = max(self.marker.peak_gb, peak_gigabytes())
        self.marker.finished, self.marker.date, self.marker.attempt_start = True, date.today().isoformat(), 0.0
        self._write()
        spent = f"{_duration(self.marker.seconds)}, peak {self.marker.peak_gb:.1f} GB"
        return f"{self.name}: finished in {spent}{next_line(self.settings)}"

    def pause(self, why: str) -> str:
        """Mark the attempt as ended and the stage as unfinished. Returns a message."""
        self.marker.seconds += time.time() - self.marker.attempt_start
        self.marker.peak_gb = max(self.marker.peak_gb, peak_gigabytes())
        self.marker.attempt_start = 0.0
        self._write()
        return f"{self.name}: unfinished ({why}); the same command resumes it"

    def release(self) -> None:
        """Unlock the folder for other processes, as the end of this process would."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _acquire(self) -> None:
        """Lock a file beside the folder, so that a second run cannot move the folder of the first."""
        path = self.folder.with_name(f".{self.name}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise ValueError(f"Expected no other run in {self.folder}, but got one that is still going.") from None

    def _lost_seconds(self, earlier: Marker) -> float:
        """Seconds that a killed attempt ran, until its last write."""
        if not earlier.attempt_start:
            return 0.0
        last_write = max(path.lstat().st_mtime for path in self.folder.rglob("*"))
        return max(0.0, last_write - earlier.attempt_start)

    def _changed(self, earlier: Marker) -> list[str]:
        """Names of the settings and inputs by which the results of an earlier run may differ."""
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
            return None  # no marker, or one of another version: the folder is moved aside

    def _write(self) -> None:
        write_whole(self.marker_path, json.dumps(asdict(self.marker), indent=1))


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert to JSON and back, for comparison with a marker file."""
    return json.loads(json.dumps(config, default=str))


def _json_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
