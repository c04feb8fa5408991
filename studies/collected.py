"""Shared by the collect.py of the studies: date and machine, cells, markdown tables, and tables within a page."""

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml

METRIC_KEYS = ("value", "low", "high", "num")


def date_and_machine() -> dict[str, str]:
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return {"date": date.today().isoformat(), "machine": machine}


def codec_table(folder: Path, metrics: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{system: {metric: {value, low, high, num}}} of a codec evaluation."""
    systems = json.loads((folder / "codec_evaluation.json").read_text())["systems"]
    return {
        system: {metric: {key: row[metric][key] for key in METRIC_KEYS} for metric in metrics if metric in row}
        for system, row in systems.items()
    }


def cell(point: Mapping[str, Any] | None, num_digits: int = 3) -> str:
    """A value with its interval; a dash for none."""
    if point is None or point["value"] is None or math.isnan(point["value"]):
        return "–"
    return "{value:.{n}f} [{low:.{n}f}, {high:.{n}f}]".format(**point, n=num_digits)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """The lines of a markdown table."""
    lines = ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
    return [*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)]


def filled(page: str, name: str, text: str) -> str:
    """The page with `text` between its marks. Raises ValueError where a mark is missing."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, first, rest = page.partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise ValueError(f"Expected the page to hold the marks `{begin}` and `{end}`, but it does not.")
    return f"{before}{begin}\n{text}\n{end}{after}"


def with_tables(page: str, tables: Mapping[str, Iterable[str]]) -> str:
    """The page with the lines of each table between the marks of its name."""
    for name, lines in tables.items():
        page = filled(page, name, "\n".join(lines))
    return page


def write_page(folder: Path, tables: Mapping[str, Iterable[str]]) -> None:
    """Fills the tables of the folder's README.md."""
    page = folder / "README.md"
    page.write_text(with_tables(page.read_text(encoding="utf-8"), tables), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """The measurement, or None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def fit_settings(run: Path) -> dict[str, Any]:
    """Seed, planned updates and precision of a fit, by its marker; the marker of `--precision auto` does not name the
    precision that the machine got, the config beside its log does."""
    config = json.loads((run / "stage_fit.json").read_text(encoding="utf-8"))["config"]
    trainer = config["trainer"]
    logged = run / "tensorboard/config.yaml"
    if logged.is_file():
        trainer = trainer | {"precision": yaml.safe_load(logged.read_text(encoding="utf-8"))["trainer"]["precision"]}
    elif config.get("precision"):
        trainer = trainer | {"precision": config["precision"]}
    return {
        "seed": config["seed_everything"],
        "planned_updates": trainer["max_steps"],
        "precision": trainer["precision"] or "32-true",
    }


def write_json(found: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
