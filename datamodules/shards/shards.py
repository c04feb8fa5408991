"""Shards on disk: WebDataset tar files with an index, written once, with random access to samples.

A shard folder contains `000000.tar` …, `index.json` (kind, shards, header, report) and `index.npz` (per sample: key,
length, bytes of its text, shard, byte offset, byte size, speaker). The tar files are plain WebDataset and open with
`webdataset.WebDataset(...)`; the offsets allow any order of samples, which an exact resume needs and WebDataset's own
pipeline does not support.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from datamodules.shards.stored_arrays import mapped_arrays
from datamodules.shards.tar_samples import plain_sample

FORMAT = 1
MAX_OPEN_SHARDS = 64  # per reader
ARRAYS = ("keys", "lengths", "text_lengths", "shard_of", "offsets", "sizes")
NAMES = ("speakers", "languages", "licenses")  # numbered by speaker_of, language_of, license_of
OPTIONAL_ARRAYS = ("speaker_of", "language_of", "license_of", *NAMES, "about_offsets", "about_sizes")
MEASURE = "measure_"
ABOUTS = "abouts.jsonl"
USED = "used.npz"  # the rows of index.npz without a verdict, if any has one: opening it copies nothing
INDEX_FILES = ("index.json", "index.npz", USED, ABOUTS)
MADE_BY = {
    "audio": "A run whose data has `sources` prepares them; the demo's: "
    "python run.py fit --config configs/demo/codec.yaml, its digits: "
    "python run.py predict --config configs/demo/tokenise.yaml.",
    "tokens": "A codec's predict writes them; the demo's: python run.py predict --config configs/demo/tokenise.yaml.",
}


@dataclass(frozen=True)
class ShardIndex:
    """Index of a shard folder.

    `header` describes the data as given to the writer (token space, codec fingerprint, sample rate, …). `lengths` are
    in samples of audio or in codes, `text_lengths` in UTF-8 bytes. `report` counts kept and skipped samples, with
    reasons. `speaker_of` gives each sample's row in `speakers`, (K, 2): source and name. Older indices have no
    `speakers`, and number bare names or nothing; datamodules.speakers.speakers_of reads both. `license_of` numbers
    `licenses`, `language_of` `languages`. Samples with `about_sizes` > 0 are audio files within tars of others; their
    jsons are in abouts.jsonl. `measures` are quality measures and published scores by name.
    """

    folder: Path
    kind: str
    header: dict[str, Any]
    report: dict[str, Any]
    shards: list[str]
    keys: np.ndarray
    lengths: np.ndarray
    text_lengths: np.ndarray
    shard_of: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    speaker_of: np.ndarray | None = None
    speakers: np.ndarray | None = None
    language_of: np.ndarray | None = None
    languages: np.ndarray | None = None
    license_of: np.ndarray | None = None
    licenses: np.ndarray | None = None
    about_offsets: np.ndarray | None = None
    about_sizes: np.ndarray | None = None
    measures: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lengths)

    def reader(self) -> "ShardReader":
        return ShardReader(self)

    @cached_property
    def shard_counts(self) -> np.ndarray:
        """Number of samples of each shard."""
        return np.bincount(self.shard_of, minlength=len(self.shards))

    def rows_of(self, shard: int) -> np.ndarray:
        """The rows of a shard, ascending."""
        order, starts = self._by_shard
        return order[starts[shard] : starts[shard + 1]]

    @cached_property
    def _by_shard(self) -> tuple[np.ndarray, np.ndarray]:
        starts = np.concatenate([[0], np.cumsum(self.shard_counts)])
        return np.argsort(self.shard_of, kind="stable"), starts

    @classmethod
    def load(cls, folder: Path | str, kind: str) -> "ShardIndex":
        """Load an index, without the samples that a verdict over the whole corpus leaves out (duplicate audio, ...).
        Raises FileNotFoundError if there is none, ValueError if it is of another kind or empty."""
        folder = Path(folder)
        if not (folder / "index.json").is_file():
            raise FileNotFoundError(
                f"Expected {kind} shards in `{folder}`, but there is no index.json. {_unfinished(folder.parent)}"
                f"{MADE_BY[kind]} The splits beside it: {_splits(folder.parent)}."
            )
        about = json.loads((folder / "index.json").read_text())
        if about["format"] != FORMAT or about["kind"] != kind:
            raise ValueError(
                f"Expected {kind} shards of format {FORMAT} in `{folder}`, "
                f"but got {about['kind']} shards of format {about['format']}."
            )
        arrays = mapped_arrays(folder / (USED if (folder / USED).is_file() else "index.npz"))
        index = cls(
            folder,
            kind,
            about["header"],
            about["report"],
            about["shards"],
            *(arrays[name] for name in ARRAYS),
            **{name: arrays.get(name) for name in OPTIONAL_ARRAYS},
            measures={name.removeprefix(MEASURE): one for name, one in arrays.items() if name.startswith(MEASURE)},
        )
        if not len(index):
            raise ValueError(f"Expected at least one sample in `{folder}`, but got none: {about['report']}.")
        return index


def _unfinished(folder: Path) -> str:
    is_unfinished = (folder / ".preparing").is_dir()
    return "They are not finished: the command that began them resumes. " if is_unfinished else ""


def _splits(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/index.json"))


class ShardReader:
    """Random access to the samples of an index. Keeps recently used tars open; can be pickled to loader workers."""

    def __init__(self, index: ShardIndex) -> None:
        self.index = index
        self._files: dict[tuple[int, int], Any] = {}  # most recently used last

    def __len__(self) -> int:
        return len(self.index)

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index, "_files": {}}

    def read(self, row: int) -> dict[str, Any]:
        """Return {"__key__": str, extension: bytes, …} of one sample; uses WebDataset's tar reader if it is not plain.

        Raises ValueError with shard and key if the bytes are damaged.
        """
        index = self.index
        shard = int(index.shard_of[row])
        chunk = os.pread(self._descriptor(shard), int(index.sizes[row]), int(index.offsets[row]))
        if is_in_place(index, row):
            return {"__key__": str(index.keys[row]), "json": self._about(row), index.header["audio_format"]: chunk}
        sample = plain_sample(chunk)
        if sample is None:
            sample = _any_sample(chunk, index.shards[shard])
        if sample["__key__"] != index.keys[row]:
            raise ValueError(f"Expected sample `{index.keys[row]}`, but got `{sample['__key__']}`: damaged shard.")
        return sample

    def _about(self, row: int) -> bytes:
        """The json of a sample whose audio is in a tar of others."""
        size, offset = int(self.index.about_sizes[row]), int(self.index.about_offsets[row])
        return os.pread(self._descriptor(-1), size, offset)

    def _descriptor(self, shard: int) -> int:
        """An open shard; -1: abouts.jsonl."""
        source = (os.getpid(), shard)  # forked workers must not share file handles
        name = ABOUTS if shard < 0 else self.index.shards[shard]
        stream = self._files.pop(source, None) or (self.index.folder / name).open("rb", buffering=0)
        self._files[source] = stream
        if len(self._files) > MAX_OPEN_SHARDS:  # a corpus may have more shards than a process may open files
            self._files.pop(next(iter(self._files))).close()
        return stream.fileno()


def is_in_place(index: ShardIndex, row: int) -> bool:
    """Whether a sample is an audio file within a tar of others."""
    return index.about_sizes is not None and bool(index.about_sizes[row])


def _any_sample(chunk: bytes, shard: str) -> dict[str, Any]:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    try:
        files = [dict(item, __url__="") for item in tar_file_iterator(io.BytesIO(chunk))]
        (sample,) = group_by_keys(files)
    except Exception as error:
        raise ValueError(f"Expected a readable sample in `{shard}`, but got: {error}.") from error
    return sample


class ShardWriter:
    """Writes a shard folder: into `folder/unfinished`, moved into `folder` at the end, the index last.

    A folder with an index is therefore complete, and shards in `folder` are replaced only by a complete set with all
    their samples. Other files there are left alone.

    Args:
        folder: Output folder.
        kind: "audio", "tokens" or "text".
        header: Information for readers (stored in index.json).
        samples_per_shard: Samples per tar file.

    Raises ValueError on opening if `folder` contains shards of another kind or header, or tar files without an index;
    and at the end if the new shards lack samples of the old ones: the new ones then stay in `folder/unfinished`.
    """

    def __init__(self, folder: Path | str, kind: str, header: dict[str, Any], samples_per_shard: int = 1000) -> None:
        self.folder, self.kind, self.header, self.samples_per_shard = Path(folder), kind, header, samples_per_shard
        self.unfinished = self.folder / "unfinished"
        self._rows: list[tuple[str, int, int, int, int, int]] = []
        self._keys: set[str] = set()
        self._speakers: dict[tuple[str, str], int] = {}  # (source, name) to number, in order of appearance
        self._speaker_of: list[int] = []
        self._skipped: list[dict[str, str]] = []
        self._tar: Any = None
        self._stream: Any = None

    def recover(self) -> None:
        """Complete the move of an interrupted writer. Raises ValueError if the folder must not be replaced."""
        if (self.unfinished / "index.json").is_file() and not (self.folder / "index.json").is_file():
            self._move_in()
        self._check_folder()

    def __enter__(self) -> "ShardWriter":
        self.recover()
        shutil.rmtree(self.unfinished, ignore_errors=True)  # of an interrupted writer
        self.unfinished.mkdir(parents=True)
        return self

    @property
    def num_samples(self) -> int:
        return len(self._rows)

    @property
    def total_length(self) -> int:
        return sum(row[1] for row in self._rows)

    def write(self, key: str, files: dict[str, Any], length: int, text: str) -> None:
        """Add one sample: `files` by extension (bytes, or types that webdataset's TarWriter encodes: npy, json). The
        index stores the speaker in its json."""
        if not usable_key(key):
            raise ValueError(f"Expected `key` without dots, slashes and spaces, but got {key!r}.")
        if key in self._keys:
            raise ValueError(f"Expected every `key` once, but got {key!r} again.")
        if len(self._rows) % self.samples_per_shard == 0:
            self._open_next_shard()
        start = self._tar.tarstream.offset
        self._tar.write({"__key__": key, **files})
        self._keys.add(key)
        self._speaker_of.append(self._speakers.setdefault(speaker_in(files), len(self._speakers)))
        shard, size = len(self._rows) // self.samples_per_shard, self._tar.tarstream.offset - start
        self._rows.append((key, length, len(text.encode()), shard, start, size))

    def skip(self, key: str, reason: str) -> None:
        """Count an unusable sample."""
        self._skipped.append({"key": key, "reason": reason})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
            return
        self._close_shard()
        self._write_index()
        self.replace()

    def discard(self) -> None:
        """Discard these samples; the content of `folder` stays."""
        self._close_shard()
        shutil.rmtree(self.unfinished, ignore_errors=True)

    def _check_folder(self) -> None:
        """Raise ValueError if `folder` contains something that must not be replaced."""
        remedy = "Name another folder, or remove what is there."
        if (self.folder / "index.json").is_file():
            about = json.loads((self.folder / "index.json").read_text())
            for name, wanted in (("kind", self.kind), ("header", json.loads(json.dumps(self.header)))):
                if about.get(name) != wanted:
                    raise ValueError(
                        f"Expected `{self.folder}` to be free for {self.kind} shards of {self.header}, but it holds "
                        f"{about.get('kind')} shards of {about.get('header')}. {remedy}"
                    )
        elif tars := sorted(path.name for path in self.folder.glob("*.tar")):
            raise ValueError(
                f"Expected `{self.folder}` to be free for {self.kind} shards, but it holds {tars[0]} without an "
                f"index.json. {remedy}"
            )

    def replace(self) -> None:
        """Move a complete set in `folder/unfinished` into the folder. Raises ValueError if it lacks samples."""
        old, new = ((folder / "index.npz") for folder in (self.folder, self.unfinished))
        if old.is_file() and (lost := _samples(old) - _samples(new)):
            raise ValueError(
                f"Expected the new shards to hold every sample of those in `{self.folder}`, but {len(lost)} are "
                f"missing or of another length, such as {min(lost)[0]!r}. Nothing was replaced; the new shards are in "
                f"`{self.unfinished}`. To replace the old ones: remove index.json, index.npz and *.tar of "
                f"`{self.folder}` and move the files of `{self.unfinished}` there."
            )
        (self.folder / "index.json").unlink(missing_ok=True)  # from here to the end the folder is incomplete
        self._move_in()

    def _move_in(self) -> None:
        shards = json.loads((self.unfinished / "index.json").read_text())["shards"]
        for path in self.folder.glob("*.tar"):
            if path.name not in shards:
                path.unlink()
        files = [path for path in self.unfinished.iterdir() if path.is_file() and path.name in {*shards, *INDEX_FILES}]
        for path in sorted(files, key=lambda path: path.name == "index.json"):
            os.replace(path, self.folder / path.name)
        shutil.rmtree(self.unfinished)

    def _close_shard(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._stream.close()

    def _open_next_shard(self) -> None:
        from webdataset import TarWriter

        self._close_shard()
        number = len(self._rows) // self.samples_per_shard
        self._stream = (self.unfinished / f"{number:06d}.tar").open("wb")
        self._tar = TarWriter(self._stream, mtime=0)  # the same data gives the same bytes

    def _write_index(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else [()] * len(ARRAYS)
        arrays = {
            name: np.array(column, dtype=np.str_ if name == "keys" else np.int64)
            for name, column in zip(ARRAYS, columns, strict=True)
        }
        arrays["speaker_of"] = np.array(self._speaker_of, dtype=np.int64)
        arrays["speakers"] = np.array(list(self._speakers), dtype=np.str_).reshape(-1, 2)
        report = {
            "num_samples": len(self._rows),
            "num_skipped": len(self._skipped),
            "skipped_by_reason": dict(Counter(item["reason"] for item in self._skipped)),
            "skipped": self._skipped,
        }
        shards = sorted(path.name for path in self.unfinished.glob("*.tar"))
        about = {"format": FORMAT, "kind": self.kind, "header": self.header, "report": report, "shards": shards}
        with (self.unfinished / "index.npz").open("wb") as stream:
            np.savez(stream, **arrays)
        (self.unfinished / "index.json").write_text(json.dumps(about, indent=1, ensure_ascii=False))


def _samples(path: Path) -> set[tuple[str, int, int]]:
    """Return key, length and bytes of text of every sample of an `index.npz`."""
    arrays = mapped_arrays(path)
    return set(zip(*(arrays[name].tolist() for name in ("keys", "lengths", "text_lengths")), strict=True))


def usable_key(key: Any) -> bool:
    """Check that WebDataset can distinguish samples by this key: it cuts names at the first dot."""
    return isinstance(key, str) and re.fullmatch(r"[^./\\ \x00-\x1f\x7f\ud800-\udfff]+", key) is not None


def speaker_in(files: dict[str, Any]) -> tuple[str, str]:
    """Return (source, name) from the json of a sample; "" for missing ones."""
    about = files.get("json", {})
    about = about if isinstance(about, dict) else json.loads(about)
    if not isinstance(about, dict):
        return "", ""
    return str(about.get("source") or ""), str(about.get("speaker") or "")


def by_hash(keys: Sequence[str]) -> list[int]:
    """Return positions of `keys` in the order of their SHA-256. The first n are an unbiased choice: independent of
    source, speaker and the order of recordings, and n + 1 include the same n."""
    return sorted(range(len(keys)), key=lambda place: hashlib.sha256(str(keys[place]).encode()).digest())


def chosen_rows(keys: Sequence[str], number: int) -> list[int]:
    """Return positions of `number` keys, all for 0, chosen by their hash, in the order of keys."""
    if not number:
        return np.argsort(keys).tolist()
    return sorted(by_hash(keys)[:number], key=lambda place: str(keys[place]))


def held_out(key: str) -> bool:
    """Return True for a tenth of all keys, which are excluded from training. A hash decides, so splits never change."""
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10 == 0
