"""Checks whether two sweeps with one configuration give the same curves: two engines, machines or seeds.

    python -m studies.engines.curve_agreement runs/demo/report/curve.csv runs/demo_vllm/report/curve.csv

Prints every point whose scores differ by more than the interval of a difference (of independent sweeps: the root of the
sum of both half-widths' squares), and the share of points that agree. Exits with 1 if it is below --share: some points
miss 95 % intervals by chance.
"""

import argparse
import csv
import math
from pathlib import Path

KEY = ("prompt_set", "model", "algorithm", "temperature", "selector", "judge", "n")
Curve = dict[tuple[str, ...], tuple[float, float, float]]


def read_curve(path: Path) -> Curve:
    """Return key -> (score, low, high). Raises ValueError if the file is not a curve.csv."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or not {*KEY, "score", "low", "high"} <= rows[0].keys():
        raise ValueError(f"Expected `{path}` to be a sweep's curve.csv, but got other columns.")
    return {
        tuple(row[name] for name in KEY): (float(row["score"]), float(row["low"]), float(row["high"])) for row in rows
    }


def disagreements(first: Curve, second: Curve) -> list[str]:
    """Return a line for each point of both curves whose scores differ by more than chance explains."""
    lines = []
    for key in first.keys() & second.keys():
        (score, low, high), (other_score, other_low, other_high) = first[key], second[key]
        if not abs(score - other_score) <= math.hypot((high - low) / 2, (other_high - other_low) / 2):
            intervals = f"{score:.4g} [{low:.4g}, {high:.4g}] and {other_score:.4g} [{other_low:.4g}, {other_high:.4g}]"
            lines.append(f"{' / '.join(key)}: {intervals}")
    return sorted(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--share", type=float, default=0.9)
    given = parser.parse_args(arguments)
    first, second = read_curve(given.first), read_curve(given.second)
    num_shared = len(first.keys() & second.keys())
    if num_shared == 0:
        raise SystemExit("error: the two curves have no point in common")
    lines = disagreements(first, second)
    print("\n".join([*lines, f"{num_shared - len(lines)} of {num_shared} points agree"]))
    if num_shared - len(lines) < given.share * num_shared:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
