"""Published rows next to a sweep's own: quoted rows as printed, measured rows labelled as such."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.evaluation.quoted_table import EMPTY, QuotedTable, aligned
from modules.report.figures import is_oracle, without_label
from modules.search.analysis.comparisons import SAME_FAMILY, setting_label
from modules.search.analysis.expected_best_of_n import SELF_JUDGED, CurvePoint


@dataclass(frozen=True)
class QuotedRows:
    """A quoted table, and the columns of it that this sweep measures.

    Args:
        path: CSV of published rows (codec_columns.QuotedTable): its caption states the source and the measurement.
        columns: Maps a heading of the table to "PROMPT SET/JUDGE". Error rates are shown in percent, as in papers.
    """

    path: Path
    columns: dict[str, str]

    def read(self) -> QuotedTable:
        """Read the table. Raises FileNotFoundError; ValueError if the table is malformed or lacks one of `columns`."""
        table = QuotedTable.read(Path(self.path))
        if unknown := sorted(set(self.columns) - set(table.headings[1:])):
            raise ValueError(f"Expected `columns` among the headings {table.headings[1:]}, but got {unknown}.")
        return table

    def check(self, prompt_sets: Sequence[str], judges: Sequence[str]) -> None:
        """Raises as `read`, and ValueError if a column names a prompt set or judge that is not in the sweep."""
        self.read()
        known = {f"{prompt_set}/{judge}" for prompt_set in prompt_sets for judge in judges}
        if unknown := sorted(set(self.columns.values()) - known):
            raise ValueError(f"Expected `columns` to name PROMPT SET/JUDGE among {sorted(known)}, but got {unknown}.")


def measured_rows(
    headings: Sequence[str],
    columns: Mapping[str, str],
    points: Sequence[CurvePoint],
    error_judges: frozenset[str],
) -> list[list[str]]:
    """One row for chance at the smallest n and one per selector at the largest; none if no column matches. A number
    whose judge selected or steered is labelled in its cell, beside those of independent judges."""
    wanted = set(columns.values())
    rows: dict[str, dict[str, str]] = {}
    for point in points:
        tag = f"{point.prompt_set}/{point.judge}"
        search = (point.prompt_set, setting_label(point))
        counts = [one.n for one in points if (one.prompt_set, setting_label(one)) == search]
        wanted_n = min(counts) if point.selector == "random" else max(counts)
        if tag not in wanted or is_oracle(point.selector) or point.n != wanted_n:
            continue
        label = f"measured: {setting_label(point)}: {without_label(point.selector)}, n={point.n}"  # of all judges
        number = f"{100 * (1 - point.score):.2f}" if point.judge in error_judges else f"{point.score:.3f}"
        marks = [SAME_FAMILY] * bool(point.shared_families) + [SELF_JUDGED] * bool(point.self_judged)
        rows.setdefault(label, {})[tag] = " ".join([number, *marks])
    return [
        [label, *(cells.get(columns.get(heading, ""), EMPTY) for heading in headings[1:])]
        for label, cells in rows.items()
    ]


def as_text(quoted: QuotedTable, measured: Sequence[Sequence[str]]) -> str:
    """Format for a terminal: the measured rows first, then the caption and the quoted ones."""
    own = f"{aligned([quoted.headings, *measured])}\n\n" if measured else ""
    return f"{own}Quoted, not measured here: {quoted.caption}\n{aligned([quoted.headings, *quoted.rows])}"
