"""python -m studies.slurm.compare_tables TABLE.csv OTHER.csv: checks that two sweeps report the same.

Every cell must be the same text, or a number that differs by less than 1e-4: batching changes the last digits of a
log-probability, not the samples. Seconds are ignored. Prints the largest difference and exits with 0, or the first cell
that differs by more and 1.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.search.analysis.results import read_rows

TOLERANCE = 1e-4
LEFT_OUT = "seconds"  # and NAME_seconds


def largest_difference(one: Path, other: Path) -> float:
    """Largest relative difference over all cells. Raises ValueError if a cell or the shape differs."""
    tables = [read_rows(path) for path in (one, other)]
    sizes = [(len(rows), list(rows[0]) if rows else []) for rows in tables]
    if sizes[0] != sizes[1]:
        raise ValueError(f"Expected tables of the same rows and columns, but got {sizes[0]} and {sizes[1]}.")
    largest = 0.0
    for number, (row, twin) in enumerate(zip(*tables, strict=True), 2):
        for column, cell in row.items():
            if not column.endswith(LEFT_OUT) and cell != twin[column]:
                difference = _difference(cell, twin[column])
                if difference > TOLERANCE:
                    raise ValueError(f"line {number}, {column}: {cell} and {twin[column]}")
                largest = max(largest, difference)
    return largest


def _difference(cell: str, twin: str) -> float:
    """Relative difference; infinite if one is not a number."""
    try:
        first, second = float(cell), float(twin)
    except ValueError:
        return math.inf
    if first == second or (math.isnan(first) and math.isnan(second)):
        return 0.0
    return abs(first - second) / max(abs(first), abs(second)) if math.isfinite(first - second) else math.inf


def main(arguments: Sequence[str]) -> int:
    one, other = (Path(argument) for argument in arguments)
    try:
        largest = largest_difference(one, other)
    except ValueError as difference:
        print(f"{one} and {other}: {difference}")
        return 1
    print(f"{one.name}: numbers differ by {largest:.1e} at most" if largest else f"{one.name}: the same")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
