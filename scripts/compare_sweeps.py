"""Compares sweeps of several models on the same prompts: one table, and paired differences.

    python -m scripts.compare_sweeps small=runs/small/report large=runs/large/report --output runs/both

Reads curve.csv and prompts.csv of each report; writes models.csv (every point of every model) and model_comparisons.csv
(every pair of models at the same search, selector, judge and n), and prints the latter at the largest n. Lines are
matched by name, so sweep the same searches: a line missing in one report is named and omitted.
"""

import argparse
import csv
import functools
import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modules.search.analysis.comparisons import SAME_FAMILY, Comparison, Resampling
from modules.search.analysis.expected_best_of_n import SELF_JUDGED
from modules.search.analysis.results import read_rows, write_rows

logger = logging.getLogger(__name__)
ENDS = {"worst_score": -1, "best_score": 1}  # older reports lack them: infinities of these signs
LINE = ("prompt_set", "model", "algorithm", "temperature", "selector", "judge")


def lines_of(rows: Sequence[Mapping[str, str]]) -> dict[tuple[Any, ...], dict[str, Mapping[str, str]]]:
    """Group rows of prompts.csv: line and n -> prompt key -> row. A search without a curve has an n that may differ
    between models: its n is omitted."""
    numbers_of: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        numbers_of.setdefault(tuple(row.get(name, "") for name in LINE), set()).add(row["n"])
    lines: dict[tuple[Any, ...], dict[str, Mapping[str, str]]] = {}
    for row in rows:
        line = tuple(row.get(name, "") for name in LINE)
        lines.setdefault((*line, row["n"] if len(numbers_of[line]) > 1 else ""), {})[row["prompt_key"]] = row
    return lines


def compare_models(
    reports: Mapping[str, Sequence[Mapping[str, str]]], seed: int = 0, num_resamples: int = 2000
) -> list[Comparison]:
    """Compare models. `reports`: model name -> rows of its prompts.csv. Omits the oracle and self-judged lines. The `n`
    of a search without a curve is that of the first model.

    Raises ValueError if two models have different prompts: their difference would be that of the prompts.
    """
    models = {name: lines_of(rows) for name, rows in reports.items()}
    drawn = functools.cache(functools.partial(Resampling.draw, seed=seed, num_resamples=num_resamples))
    comparisons = []
    for first, second in itertools.combinations(models, 2):
        for line in sorted(models[first].keys() ^ models[second].keys()):
            logger.warning("only one of %s and %s has %s: left out", first, second, line)
        for line in [line for line in models[first] if line in models[second]]:
            ours, theirs = models[first][line], models[second][line]
            if ours.keys() != theirs.keys():
                others = sorted(ours.keys() ^ theirs.keys())
                raise ValueError(
                    f"Expected {first} and {second} to have the same prompts in {line[0]!r}, "
                    f"but got others: {others[:3]}."
                )
            about = next(iter(ours.values()))
            if about["selector"].startswith("oracle (") or about["selector"].endswith(SELF_JUDGED):
                continue
            search = (
                f"{about.get('model', '')} {about['algorithm']} T={about['temperature']}: {about['selector']}".lstrip()
            )
            if about.get("shared_families"):
                search = f"{search} {SAME_FAMILY}"
            difference_P = np.array([float(ours[key]["score"]) - float(theirs[key]["score"]) for key in ours])
            speakers_P = tuple(ours[key]["speaker"] for key in ours)
            ends = tuple(float(about.get(name) or sign * math.inf) for name, sign in ENDS.items())
            (numbers,) = drawn(len(ours), speakers_P).numbers(difference_P[None], ends)
            labels = (f"{first}, {search}", f"{second}, {search}")
            comparisons.append(Comparison(about["prompt_set"], about["judge"], int(about["n"]), *labels, *numbers))
    return comparisons


def shown(comparisons: Sequence[Comparison]) -> list[str]:
    """Return a line for each pair at the largest n of its search."""
    largest: dict[tuple[str, ...], int] = {}
    for one in comparisons:
        search = (one.prompt_set, one.judge, one.first)
        largest[search] = max(one.n, largest.get(search, 0))
    return [
        f"{one.prompt_set} / {one.judge}, n={one.n}: ({one.first}) - ({one.second}) = "
        f"{one.difference:+.4f} [{one.low:+.4f}, {one.high:+.4f}], p = {one.p_value:.3f}"
        for one in comparisons
        if one.n == largest[one.prompt_set, one.judge, one.first]
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
        row | {"model": f"{name} {row.get('model', '')}".rstrip()}
        for name, folder in folders.items()
        for row in read_rows(Path(folder) / "curve.csv")
    ]
    parsed.output.mkdir(parents=True, exist_ok=True)
    with (parsed.output / "models.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(name for row in points for name in row)))
        writer.writeheader()
        writer.writerows(points)
    reports = {name: read_rows(Path(folder) / "prompts.csv") for name, folder in folders.items()}
    comparisons = compare_models(reports, parsed.seed)
    write_rows(comparisons, Comparison, parsed.output / "model_comparisons.csv")
    print("\n".join(shown(comparisons)))


if __name__ == "__main__":
    main()
