"""Sweeps of several models on the same prompts in one table, and their paired differences.

    python scripts/compare_sweeps.py small=runs/small/report large=runs/large/report --output runs/both

Reads curve.csv and prompts.csv of each report; writes models.csv (every point of every model) and
model_comparisons.csv (every pair of models at the same search, selector, judge and n), and prints the latter at the
largest n.
"""

import argparse
import csv
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

LINE = ("prompt_set", "algorithm", "temperature", "selector", "judge", "n")


@dataclass(frozen=True)
class ModelComparison:
    """`difference` = first - second in the judge's score on the same prompts, with its paired 95 % intervals over
    prompts and over speakers (NaN where prompts name none) and the two-sided p-value of the sign-flip test."""

    prompt_set: str
    algorithm: str
    temperature: str
    selector: str
    judge: str
    n: int
    first: str
    second: str
    difference: float
    low: float
    high: float
    p_value: float
    num_prompts: int
    speaker_low: float
    speaker_high: float


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def lines_of(rows: Sequence[Mapping[str, str]]) -> dict[tuple[Any, ...], dict[str, Mapping[str, str]]]:
    """Of prompts.csv: line, n and a number -> prompt key -> row. The number tells searches of one name apart, in the
    order of the file: a report may hold the same search in two sizes."""
    lines: dict[tuple[Any, ...], dict[str, Mapping[str, str]]] = {}
    for row in rows:
        line, number = tuple(row[name] for name in LINE), 0
        while row["prompt_key"] in lines.setdefault((*line, number), {}):
            number += 1
        lines[*line, number][row["prompt_key"]] = row
    return lines


def compare_models(
    reports: Mapping[str, Sequence[Mapping[str, str]]], seed: int = 0, num_resamples: int = 2000
) -> list[ModelComparison]:
    """`reports`: model name -> rows of its prompts.csv. The oracle, which nobody can run, is left out.

    Raises ValueError where two models were asked for other prompts: their difference would be that of the prompts.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the rooms are not installed
    from modules.search.estimators import bootstrap_interval, resample_counts, sign_flip_p_value, speaker_interval

    models = {name: lines_of(rows) for name, rows in reports.items()}
    comparisons = []
    for first, second in itertools.combinations(models, 2):
        for line in [line for line in models[first] if line in models[second]]:
            ours, theirs = models[first][line], models[second][line]
            if ours.keys() != theirs.keys():
                others = sorted(ours.keys() ^ theirs.keys())
                raise ValueError(
                    f"Expected {first} and {second} to have the same prompts in {line[0]!r}, "
                    f"but got others: {others[:3]}."
                )
            about = dict(zip(LINE, line[:-1], strict=True))
            if about["selector"].startswith("oracle ("):
                continue
            difference_P = np.array([float(ours[key]["score"]) - float(theirs[key]["score"]) for key in ours])
            speakers_P = [ours[key]["speaker"] for key in ours]
            low, high = bootstrap_interval(difference_P, resample_counts(len(ours), seed, num_resamples))
            over_speakers = speaker_interval(difference_P, speakers_P, seed, num_resamples)
            mean, p_value = float(difference_P.mean()), sign_flip_p_value(difference_P, seed)
            numbers = (mean, low, high, p_value, len(ours), *over_speakers)
            comparisons.append(ModelComparison(*line[:-2], int(about["n"]), first, second, *numbers))
    return comparisons


def write(rows: Sequence[Mapping[str, object]], names: Sequence[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(rows)


def shown(comparisons: Sequence[ModelComparison]) -> list[str]:
    """A line for each pair at the largest n of its search."""
    largest: dict[tuple[str, ...], int] = {}
    for one in comparisons:
        search = (one.prompt_set, one.algorithm, one.judge)
        largest[search] = max(one.n, largest.get(search, 0))
    return [
        f"{one.prompt_set} / {one.judge}, {one.algorithm} T={one.temperature} n={one.n}, best by {one.selector}: "
        f"{one.first} - {one.second} = {one.difference:+.4f} [{one.low:+.4f}, {one.high:+.4f}], p = {one.p_value:.3f}"
        for one in comparisons
        if one.n == largest[one.prompt_set, one.algorithm, one.judge]
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="+", metavar="NAME=REPORT", help="a model's name and its report folder")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args(arguments)
    folders = dict(one.split("=", 1) for one in parsed.reports if "=" in one)
    if len(folders) < 2 or len(folders) < len(parsed.reports):
        parser.error(f"expected two or more NAME=REPORT of different names, but got {parsed.reports}")
    points = [
        {"model": name} | row for name, folder in folders.items() for row in read_rows(Path(folder) / "curve.csv")
    ]
    write(points, list(dict.fromkeys(name for row in points for name in row)), parsed.output / "models.csv")
    reports = {name: read_rows(Path(folder) / "prompts.csv") for name, folder in folders.items()}
    comparisons = compare_models(reports, parsed.seed)
    names = [one.name for one in fields(ModelComparison)]
    write([asdict(one) for one in comparisons], names, parsed.output / "model_comparisons.csv")
    print("\n".join(shown(comparisons)))


if __name__ == "__main__":
    main()
