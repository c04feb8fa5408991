"""Published rows of codec tables, and tables as text."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EMPTY = "–"


@dataclass(frozen=True)
class QuotedTable:
    """Published rows: `caption` states the source and the data, cells are as printed there."""

    caption: str
    headings: list[str]
    rows: list[list[str]]

    @classmethod
    def read(cls, path: Path) -> "QuotedTable":
        """Read a CSV with a header, also relative to the repository; the first lines, starting with #, are the caption.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: A caption is missing, or a row is longer or shorter than the header.
        """
        path = path if path.exists() else Path(__file__).resolve().parents[2] / path  # under another `--root`
        lines = path.read_text(encoding="utf-8").splitlines()
        caption = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
        header, *rows = list(csv.reader(line for line in lines if line and not line.startswith("#")))
        if not caption or any(len(row) != len(header) for row in rows):
            raise ValueError(
                f"Expected `quoted` with a caption (# lines) and rows as long as its header, but got {path}."
            )
        return cls(caption, header, rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as aligned text: names left-aligned, numbers right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *padded]))
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    header, *body = rows
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
