"""Writing of a split's index: index.npz, index.json and, for audio in tars of others, abouts.jsonl."""

import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.shards.shards import ABOUTS, ARRAYS, FORMAT, MEASURE, NAMES, USED
from datamodules.shards.stored_arrays import mapped_arrays
from datamodules.shards.units import SplitRows
from modules.atomic_file import write_whole


class IndexColumns:
    """The columns of one split, collected unit by unit."""

    def __init__(self) -> None:
        self.shards: list[str] = []
        self._shard_number: dict[str, int] = {}
        self._shard_of: list[int] = []
        self._order: list[int] = []
        self._rows = SplitRows()
        self._abouts: list[bytes] = []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def columns(self) -> dict[str, list[Any]]:
        return self._rows.columns

    @property
    def measures(self) -> dict[str, np.ndarray]:
        """(N,) float32 by name, NaN where there is none."""
        padded = {name: values + [None] * (len(self) - len(values)) for name, values in self._rows.measures.items()}
        return {name: np.array(values, dtype=np.float32) for name, values in sorted(padded.items())}

    def add(self, rows: SplitRows, first: int = 0) -> None:
        """Add the rows of a unit, the `first` of which has that place among those of all splits."""
        self._order += range(first, first + len(rows))
        for shard in rows.columns["paths"]:
            if shard not in self._shard_number:
                self._shard_number[shard] = len(self.shards)
                self.shards.append(shard)
            self._shard_of.append(self._shard_number[shard])
        for name in rows.measures.keys() | self._rows.measures.keys():
            values = self._rows.measures.setdefault(name, [])
            values += [None] * (len(self) - len(values)) + rows.measures.get(name, [])
        for name, values in rows.columns.items():
            self._rows.columns[name] += values

    def arrays(self) -> tuple[dict[str, np.ndarray], bytes]:
        """The arrays of index.npz, and the content of abouts.jsonl."""
        columns = self._rows.columns
        given = {**columns, "shard_of": self._shard_of}
        arrays = {name: np.array(given[name], dtype=np.str_ if name == "keys" else np.int64) for name in ARRAYS}
        speakers = list(zip(columns["sources"], columns["speakers"], strict=True))
        arrays["speaker_of"], arrays["speakers"] = _numbered(speakers)
        arrays["speakers"] = arrays["speakers"].reshape(-1, 2)
        arrays["language_of"], arrays["languages"] = _numbered(columns["languages"])
        arrays["license_of"], arrays["licenses"] = _numbered(columns["licenses"])
        for name in ("contents", "texts"):
            arrays[name] = np.array([int(one or "0", 16) for one in columns[name]], dtype=np.uint64)
        arrays["order"] = np.array(self._order, dtype=np.int64)
        arrays |= {f"{MEASURE}{name}": values for name, values in self.measures.items()}
        abouts = b""
        if any(columns["abouts"]):
            lines = [f"{about}\n".encode() if about else b"" for about in columns["abouts"]]
            arrays["about_sizes"] = np.array(list(map(len, lines)), dtype=np.int64)
            arrays["about_offsets"] = np.cumsum(arrays["about_sizes"]) - arrays["about_sizes"]
            abouts = b"".join(lines)
        return arrays, abouts


def _numbered(values: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Number of each value, and the distinct values in order of appearance."""
    numbers: dict[Any, int] = {}
    number_of = [numbers.setdefault(value, len(numbers)) for value in values]
    return np.array(number_of, dtype=np.int64), np.array(list(numbers), dtype=np.str_)


def write_index(
    folder: Path,
    kind: str,
    header: dict[str, Any],
    columns: IndexColumns,
    skipped: Sequence[tuple[str, str]],
    **more: Any,
) -> None:
    """Write the index of a split, index.json last. `more` are further entries of its report."""
    arrays, abouts = columns.arrays()
    report: dict[str, Any] = {
        "num_samples": len(columns),
        "num_skipped": len(skipped),
        "skipped_by_reason": dict(Counter(reason for _, reason in skipped)),
        "skipped": [{"key": key, "reason": reason} for key, reason in skipped],
        **_hours(kind, header, arrays),
        **more,
    }
    about = {"format": FORMAT, "kind": kind, "header": header, "report": report, "shards": columns.shards}
    folder.mkdir(parents=True, exist_ok=True)
    if abouts:
        write_whole(folder / ABOUTS, abouts)
    write_arrays(folder / "index.npz", arrays)
    write_whole(folder / "index.json", _text(about))


def write_verdicts(folder: Path, verdicts: Sequence[str]) -> None:
    """Store in a split's index why each sample is left out, "" if it is used; in place of earlier verdicts."""
    about, arrays = json.loads((folder / "index.json").read_text()), dict(mapped_arrays(folder / "index.npz"))
    reasons = ["", *sorted(set(verdicts) - {""})]
    is_used = np.array([not verdict for verdict in verdicts], dtype=bool)
    arrays["verdict_of"] = np.array([reasons.index(verdict) for verdict in verdicts], dtype=np.uint8)
    used = {name: one if name in NAMES else one[is_used] for name, one in arrays.items() if name != "verdict_of"}
    about["report"] |= {
        "num_samples": int(is_used.sum()),
        "left_out": dict(Counter(verdict for verdict in verdicts if verdict)),
        **_hours(about["kind"], about["header"], used),
    }
    about["verdicts"] = reasons
    if not is_used.all():
        write_arrays(folder / USED, used)
    write_arrays(folder / "index.npz", arrays)
    if is_used.all():
        (folder / USED).unlink(missing_ok=True)
    write_whole(folder / "index.json", _text(about))


def _text(about: dict[str, Any]) -> str:
    return json.dumps(about, indent=1)  # ASCII: names of files may not be UTF-8


def _hours(kind: str, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Hours by licence and language, for the report."""
    seconds = arrays["lengths"] / length_rate(kind, header)
    labels = (("license", "licenses"), ("language", "languages"))
    return {f"hours_by_{name}": hours_by(arrays[names], arrays[f"{name}_of"], seconds) for name, names in labels}


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    write_whole(path, stream.getvalue())


def length_rate(kind: str, header: dict[str, Any]) -> float:
    """Units of `lengths` per second: audio samples or codes."""
    return float(header["sample_rate"] if kind == "audio" else header.get("frame_rate") or 1)


def hours_by(names: np.ndarray, number_of: np.ndarray, seconds: np.ndarray) -> dict[str, float]:
    """Hours of each name, the longest first."""
    totals = np.bincount(number_of, weights=seconds, minlength=len(names)) / 3600
    order = sorted(range(len(names)), key=lambda place: (-totals[place], str(names[place])))
    return {str(names[place]): round(float(totals[place]), 4) for place in order}
