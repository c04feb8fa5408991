"""Merges the units of a preparation into one index per split."""

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.shards.corpus_report import write_report
from datamodules.shards.index_file import IndexColumns, write_index, write_verdicts
from datamodules.shards.plan import Plan, printable
from datamodules.shards.quality import QualityControl
from datamodules.shards.shards import MEASURE
from datamodules.shards.stored_arrays import mapped_arrays
from datamodules.shards.units import UnitFolder, UnitResult
from datamodules.shards.verdicts import CorpusRows, verdicts_of
from modules.atomic_file import write_whole

if TYPE_CHECKING:
    from datamodules.shards.audio_units import PreparationSettings

EXAMPLES_PER_REASON = 2  # refused recordings to hear in the report


def merge_units(
    units: UnitFolder, plan: Plan, needed: Sequence[str], settings: "PreparationSettings", credits: str
) -> list[str]:
    """Write the index of every split, CREDITS.txt and report.html; print what was kept and skipped. Returns the splits
    of which anything is used.

    Raises ValueError if nothing is usable; the state of the preparation is removed then.
    """
    header = settings.about()
    by_split: dict[str, IndexColumns] = defaultdict(IndexColumns)
    skipped, refused, num_rows = list(plan.skipped), [], 0
    for unit in needed:
        result = UnitResult.read(units.result_path(unit))
        skipped += result.skipped
        refused += result.examples
        for split, rows in sorted(result.splits.items()):
            by_split[split].add(rows, num_rows)
            num_rows += len(rows)
    if not num_rows:
        units.remove()
        report = skip_report(skipped, len(skipped))
        raise ValueError(f"Expected at least one usable recording, but got none. {' '.join(report.split())}.")
    first = "train" if "train" in by_split else min(by_split)
    for split, columns in sorted(by_split.items()):
        write_index(units.folder / split, "audio", header, columns, skipped if split == first else [])
    for unit in set(plan.units) - set(needed):  # done by a process that did not know that the hours were reached
        for path in units.folder.glob(f"*/{unit}*.tar"):
            path.unlink()
    for path in units.folder.glob("*/*.tar"):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    write_whole(units.folder / "CREDITS.txt", printable(credits))
    return judge(units.folder, settings, first_examples(refused))


def judge(folder: Path, settings: "PreparationSettings", refused: Sequence[dict[str, Any]] = ()) -> list[str]:
    """Give the verdicts over the whole corpus to the splits in `folder`, and write its report. Returns the splits of
    which anything is used.

    Raises ValueError if `drop_worst` names no measure.
    """
    quality = settings.quality or QualityControl()
    splits = sorted(path.parent.name for path in folder.glob("*/index.json"))
    arrays = {split: mapped_arrays(folder / split / "index.npz") for split in splits}
    rows, places = _corpus_rows(arrays, settings.sample_rate)
    verdicts = verdicts_of(rows, quality, settings.hours)
    by_verdict: dict[str, list[str]] = defaultdict(list)
    of_split: dict[str, list[str]] = {split: [""] * len(arrays[split]["keys"]) for split in splits}
    for (split, row), key, verdict in zip(places, rows.keys, verdicts, strict=True):
        of_split[split][row] = verdict
        if verdict:
            by_verdict[verdict].append(key)
    skipped: list[tuple[str, str]] = []
    for split in splits:
        write_verdicts(folder / split, of_split[split])
        report = json.loads((folder / split / "index.json").read_text())["report"]
        skipped += [(item["key"], item["reason"]) for item in report["skipped"]]
        print(f"{folder}/{split}: {report['num_samples']} recordings, "
              f"{60 * sum(report['hours_by_license'].values()):.1f} minutes")  # fmt: skip
    num_recordings = len(rows) + len(skipped)
    credits = (folder / "CREDITS.txt").read_text()
    write_report(folder, splits, quality, settings.about(), skipped, by_verdict, refused, credits)
    print(skip_report(skipped, num_recordings))
    if by_verdict:
        left_out = [(key, verdict) for verdict, keys in by_verdict.items() for key in keys]
        print(skip_report(left_out, num_recordings, "left out"))
    print(f"{folder}/report.html: measures, hours, what was left out, recordings to hear", flush=True)
    return [split for split in splits if "" in of_split[split]]


def _corpus_rows(
    arrays: Mapping[str, Mapping[str, np.ndarray]], sample_rate: int
) -> tuple[CorpusRows, list[tuple[str, int]]]:
    """The rows of all splits in the plan's order, and the split and row of each."""
    splits = list(arrays)
    order = np.argsort(np.concatenate([arrays[split]["order"] for split in splits]), kind="stable")

    def column(name: str) -> np.ndarray:
        return np.concatenate([arrays[split][name] for split in splits])[order]

    names = sorted({name for of_split in arrays.values() for name in of_split if name.startswith(MEASURE)})
    measures = {
        name.removeprefix(MEASURE): np.concatenate(
            [one.get(name, np.full(len(one["keys"]), np.nan, np.float32)) for one in arrays.values()]
        )[order]
        for name in names
    }
    speakers = [
        (str(source), str(name)) for one in arrays.values() for source, name in one["speakers"][one["speaker_of"]]
    ]
    places = [(split, row) for split in splits for row in range(len(arrays[split]["keys"]))]
    rows = CorpusRows(
        keys=column("keys").tolist(),
        splits=[places[place][0] for place in order],
        seconds=column("lengths") / sample_rate,
        contents=column("contents").tolist(),
        texts=column("texts").tolist(),
        speakers=[speakers[place] for place in order],
        measures=measures,
    )
    return rows, [places[place] for place in order]


def first_examples(refused: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first EXAMPLES_PER_REASON refused recordings of each reason."""
    by_reason: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in refused:
        by_reason[one["reason"].partition(":")[0]].append(one)
    return [one for of_reason in by_reason.values() for one in of_reason[:EXAMPLES_PER_REASON]]


class EnoughUnits:
    """Which units are needed for enough hours: the first in `order` that together hold them; all, for 0 hours or as far
    as the first are not done. Audio that stands twice counts once, and what `drop_worst` leaves out not at all."""

    def __init__(self, units: UnitFolder, order: Sequence[str], settings: "PreparationSettings") -> None:
        quality = settings.quality or QualityControl()
        share = math.prod(1 - share for share in quality.drop_worst.values())
        self.units, self.order = units, order
        self._left = settings.hours * 3600 / share
        self._counts_once, self._contents = quality.duplicate_audio, set[str]()
        self._is_bounded, self._num_known = settings.hours > 0, 0
        self._place_of = {unit: place for place, unit in enumerate(order)} if self._is_bounded else {}

    def needed(self) -> list[str]:
        return list(self.order[: self._num_needed()])

    def needs(self, unit: str) -> bool:
        return not self._is_bounded or self._place_of[unit] < self._num_needed()

    def _num_needed(self) -> int:
        if not self._is_bounded:
            return len(self.order)
        while self._num_known < len(self.order) and self._left > 0:
            unit = self.order[self._num_known]
            if not self.units.is_done(unit):
                return len(self.order)
            for _, rows in sorted(UnitResult.read(self.units.result_path(unit)).splits.items()):
                for content, seconds in zip(rows.columns["contents"], rows.measures["seconds"], strict=True):
                    if content not in self._contents:
                        self._left -= seconds
                    if self._counts_once:
                        self._contents.add(content)
            self._num_known += 1
        return self._num_known


def skip_report(skipped: Sequence[tuple[str, str]], num_recordings: int, verb: str = "skipped") -> str:
    """Summarise how many recordings were skipped and why: a line per reason (up to its colon), the most common first,
    with the first keys."""
    by_reason: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key, reason in skipped:
        by_reason[reason.partition(":")[0]].append((key, reason))
    lines = [f"{verb} {len(skipped)} of {num_recordings} recordings" + (":" if skipped else "")]
    for reason, items in sorted(by_reason.items(), key=lambda pair: -len(pair[1])):
        key, full = items[0]
        lines.append(f"  {len(items)} x {reason}, such as {key!r}{full.removeprefix(reason)}")
    return "\n".join(lines)
