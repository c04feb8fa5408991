"""Writing of a split's index: index.npz, index.json and, for audio in tars of others, abouts.jsonl."""

import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.shards.shards import ABOUTS, ARRAYS, FORMAT, MEASURE, NAMES, USED
from datamodules.shards.units import SplitRows
from modules.atomic_file import write_whole


class IndexColumns:
    """The columns of one split, collected unit by unit."""

    def __init__(self) -> None:
        self.shards: list[str] = []
        self._shard_number: dict[str, int] = {}
        self._shard_of: list[int] = []
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

    def add(self, rows: SplitRows, tar: str) -> None:
        """Add the rows of a unit; those without a path of their own are in `tar`."""
        for path in rows.columns["paths"]:
            shard = path or tar
            if shard not in self._shard_number:
                self._shard_number[shard] = len(self.shards)
                self.shards.append(shard)
            self._shard_of.append(self._shard_number[shard])
        for name in rows.measures.keys() | self._rows.measures.keys():
            values = self._rows.measures.setdefault(name, [])
            values += [None] * (len(self) - len(values)) + rows.measures.get(name, [])
        for name, values in rows.columns.items():
            self._rows.columns[name] += values

    def arrays(self, verdicts: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str], bytes]:
        """The arrays of index.npz, the reasons that `verdict_of` numbers, and the content of abouts.jsonl."""
        columns = self._rows.columns
        given = {**columns, "shard_of": self._shard_of}
        arrays = {name: np.array(given[name], dtype=np.str_ if name == "keys" else np.int64) for name in ARRAYS}
        speakers = list(zip(columns["sources"], columns["speakers"], strict=True))
        arrays["speaker_of"], arrays["speakers"] = _numbered(speakers)
        arrays["speakers"] = arrays["speakers"].reshape(-1, 2)
        arrays["language_of"], arrays["languages"] = _numbered(columns["languages"])
        arrays["license_of"], arrays["licenses"] = _numbered(columns["licenses"])
        arrays["contents"] = np.array([int(one or "0", 16) for one in columns["contents"]], dtype=np.uint64)
        arrays |= {f"{MEASURE}{name}": values for name, values in self.measures.items()}
        reasons = sorted(set(verdicts) - {""})
        if reasons:
            numbers = {reason: number for number, reason in enumerate(["", *reasons])}
            arrays["verdict_of"] = np.array([numbers[verdict] for verdict in verdicts], dtype=np.uint8)
        abouts = b""
        if any(columns["abouts"]):
            lines = [f"{about}\n".encode() if about else b"" for about in columns["abouts"]]
            arrays["about_sizes"] = np.array(list(map(len, lines)), dtype=np.int64)
            arrays["about_offsets"] = np.cumsum(arrays["about_sizes"]) - arrays["about_sizes"]
            abouts = b"".join(lines)
        return arrays, reasons, abouts


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
    verdicts: Sequence[str],
    skipped: Sequence[tuple[str, str]],
    **more: Any,
) -> None:
    """Write the index of a split, index.json last. `more` are further entries of its report."""
    arrays, reasons, abouts = columns.arrays(verdicts)
    seconds_of = arrays["lengths"] / length_rate(kind, header)
    is_used = np.array([not verdict for verdict in verdicts], dtype=bool)
    report: dict[str, Any] = {
        "num_samples": int(is_used.sum()),
        "num_skipped": len(skipped),
        "skipped_by_reason": dict(Counter(reason for _, reason in skipped)),
        "skipped": [{"key": key, "reason": reason} for key, reason in skipped],
        "hours_by_license": hours_by(arrays["licenses"], arrays["license_of"][is_used], seconds_of[is_used]),
        "hours_by_language": hours_by(arrays["languages"], arrays["language_of"][is_used], seconds_of[is_used]),
    }
    report |= more
    if reasons:
        report["left_out"] = dict(Counter(verdict for verdict in verdicts if verdict))
    about = {"format": FORMAT, "kind": kind, "header": header, "report": report, "shards": columns.shards}
    if reasons:
        about["verdicts"] = ["", *reasons]
    folder.mkdir(parents=True, exist_ok=True)
    if abouts:
        write_whole(folder / ABOUTS, abouts)
    write_arrays(folder / "index.npz", arrays)
    if reasons:
        used = {name: one if name in NAMES else one[is_used] for name, one in arrays.items() if name != "verdict_of"}
        write_arrays(folder / USED, used)
    write_whole(folder / "index.json", json.dumps(about, indent=1, ensure_ascii=False))


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
