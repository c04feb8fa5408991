"""Opinion scores of a codec evaluation by the pitch of the recordings. Pure functions, and their file."""

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from modules.evaluation.judge import Judgement
from modules.evaluation.quoted_table import EMPTY
from modules.pitch import GROUPS, GroupMean, by_pitch, pitch_correlation

COLUMNS = ("system", "judge", "group", "low_hz", "high_hz", "num", "mean", "correlation")
Line = tuple[str, str, list[GroupMean], float]


def lines_by_pitch(judgements: Sequence[Judgement], judges: Sequence[str]) -> Iterator[Line]:
    """System, judge, the means of the groups and the correlation with the pitch: every judge of every system, systems
    in the order of their first row."""
    for system in dict.fromkeys(row.system for row in judgements):
        own = [row for row in judgements if row.system == system]
        pitches = [row.pitch for row in own]
        for name in judges:
            scores = [row.scores.get(name, math.nan) for row in own]
            yield system, name, by_pitch(pitches, scores), pitch_correlation(pitches, scores)


def pitch_cells(judgements: Sequence[Judgement], judges: Sequence[str]) -> list[list[str]]:
    """A header, and a row for each system and judge: means with the number of recordings. Empty without judges."""
    cells = []
    for system, name, means, correlation in lines_by_pitch(judgements, judges):
        shown = {one.group: f"{one.mean:.2f} ({one.num})" for one in means}
        number = EMPTY if math.isnan(correlation) else f"{correlation:.2f}"
        cells.append([system, name, *(shown.get(group, EMPTY) for group in GROUPS), number])
    return [["system", "judge", *(group.label for group in GROUPS), "r"], *cells] if cells else []


def write_pitch(judgements: Sequence[Judgement], judges: Sequence[str], path: Path) -> None:
    """Write a CSV with a line for each system, judge and group: COLUMNS."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for system, name, means, correlation in lines_by_pitch(judgements, judges):
            for one in means:
                group = one.group
                writer.writerow([system, name, group.name, group.low, group.high, one.num, one.mean, correlation])
