"""Merges the units of a preparation into one index per split."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.shards.corpus_report import write_report
from datamodules.shards.index_file import IndexColumns, write_index
from datamodules.shards.plan import Plan
from datamodules.shards.quality import QualityControl
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

    Raises ValueError, and removes the state of the preparation, if nothing is usable.
    """
    quality, header = settings.quality or QualityControl(), settings.about()
    by_split: dict[str, IndexColumns] = defaultdict(IndexColumns)
    skipped, refused = list(plan.skipped), []
    order: list[tuple[str, int]] = []  # of all rows, (split, row)
    for unit in needed:
        result = UnitResult.read(units.result_path(unit))
        skipped += result.skipped
        refused += result.examples
        for split, rows in sorted(result.splits.items()):
            columns = by_split[split]
            order += [(split, len(columns) + row) for row in range(len(rows))]
            columns.add(rows, f"{unit}.tar")
    num_recordings = len(order) + len(skipped)
    if not order:
        units.remove()
        report = skip_report(skipped, num_recordings)
        raise ValueError(f"Expected at least one usable recording, but got none. {' '.join(report.split())}.")
    rows = _corpus_rows(by_split, order, settings.sample_rate)
    verdicts = dict(zip(order, verdicts_of(rows, quality, settings.hours), strict=True))
    splits = sorted(by_split)
    splits_used = list(splits)
    first = "train" if "train" in by_split else splits[0]
    for split in splits:
        of_split = [verdicts[split, row] for row in range(len(by_split[split]))]
        write_index(units.folder / split, "audio", header, by_split[split], of_split, skipped if split == first else [])
        used = [rows.seconds[n] for n, place in enumerate(order) if place[0] == split and not verdicts[place]]
        print(f"{units.folder}/{split}: {len(used)} recordings, {sum(used) / 60:.1f} minutes")
        if not used:
            splits_used.remove(split)
    for unit in set(plan.units) - set(needed):  # done by a process that did not know that the hours were reached
        for path in units.folder.glob(f"*/{unit}.tar"):
            path.unlink()
    write_whole(units.folder / "CREDITS.txt", credits)
    left_out = [(key, verdicts[place]) for place, key in zip(order, rows.keys, strict=True) if verdicts[place]]
    by_verdict: dict[str, list[str]] = defaultdict(list)
    for key, verdict in left_out:
        by_verdict[verdict].append(key)
    write_report(units.folder, splits, quality, header, skipped, by_verdict, first_examples(refused), credits)
    print(skip_report(skipped, num_recordings))
    if left_out:
        print(skip_report(left_out, num_recordings, "left out"))
    print(f"{units.folder}/report.html: measures, hours, what was left out, recordings to hear", flush=True)
    return splits_used


def first_examples(refused: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first EXAMPLES_PER_REASON refused recordings of each reason."""
    by_reason: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in refused:
        by_reason[one["reason"].partition(":")[0]].append(one)
    return [one for of_reason in by_reason.values() for one in of_reason[:EXAMPLES_PER_REASON]]


def _corpus_rows(by_split: dict[str, IndexColumns], order: Sequence[tuple[str, int]], sample_rate: int) -> CorpusRows:
    def column(name: str) -> list[Any]:
        return [by_split[split].columns[name][row] for split, row in order]

    measures = {split: columns.measures for split, columns in by_split.items()}
    names = sorted({name for of_split in measures.values() for name in of_split})
    return CorpusRows(
        keys=column("keys"),
        splits=[split for split, _ in order],
        seconds=np.array(column("lengths")) / sample_rate,
        contents=column("contents"),
        texts=column("texts"),
        speakers=list(zip(column("sources"), column("speakers"), strict=True)),
        measures={
            name: np.array([measures[split][name][row] if name in measures[split] else np.nan for split, row in order])
            for name in names
        },
    )


class EnoughUnits:
    """Which units are needed for enough hours: the first in `order` that together hold them; all, for 0 hours or as far
    as the first are not done."""

    def __init__(self, units: UnitFolder, order: Sequence[str], hours: float) -> None:
        self.units, self.order, self.hours = units, order, hours
        self._seconds, self._num_known = 0.0, 0
        self._place_of = {unit: place for place, unit in enumerate(order)} if hours else {}

    def needed(self) -> list[str]:
        return list(self.order[: self._num_needed()])

    def needs(self, unit: str) -> bool:
        return not self.hours or self._place_of[unit] < self._num_needed()

    def _num_needed(self) -> int:
        if not self.hours:
            return len(self.order)
        while self._num_known < len(self.order) and self._seconds < self.hours * 3600:
            unit = self.order[self._num_known]
            if not self.units.is_done(unit):
                return len(self.order)
            result = UnitResult.read(self.units.result_path(unit))
            self._seconds += sum(sum(rows.measures["seconds"]) for rows in result.splits.values())
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
