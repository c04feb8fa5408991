"""Gather what runs measured into one JSON file: docs/results/demo.json and the tables of docs/results/demo.md.

    python scripts/collect_results.py --run runs/demo --codec codec_45min=runs/results/codec_45min_evaluation \
        --curve runs/results/sweep128/report/curve.csv --output docs/results/demo.json

Reads the stage markers (seconds, peak memory), codec_evaluation.json and curve.csv; computes nothing new.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

CODEC_METRICS = {"wer": "wer", "stoi": "stoi", "pesq_wb": "pesq_wb", "pesq_nb": "pesq_nb"}


def stages(run: Path) -> dict[str, dict[str, float]]:
    """Seconds and peak memory (1e9 bytes) of every finished stage under a run folder."""
    found = {}
    for path in sorted(run.glob("*/stage_*.json")):
        marker = json.loads(path.read_text())
        if marker["finished"]:
            name = path.parent.name if path.parent.name != "report" else "sweep"
            found[name] = {"seconds": round(marker["seconds"], 1), "peak_gb": round(marker["peak_gb"], 2)}
    return found


def codec(folder: Path, system: str | None = None) -> dict[str, Any]:
    """{metric: {value, low, high, num}} of one system of a codec evaluation; our codec where none is named."""
    table = json.loads((folder / "codec_evaluation.json").read_text())["systems"]
    row = table[system or next(name for name in table if name.startswith("codec"))]
    return {ours: {key: row[name][key] for key in ("value", "low", "high", "num")} for name, ours in CODEC_METRICS.items()}


def digit_error(curve: Path, prompt_set: str, selector: str, judge: str, n: int) -> dict[str, float]:
    """1 - score of one point of a curve, with its interval."""
    with curve.open() as stream:
        for row in csv.DictReader(stream):
            if (row["prompt_set"], row["selector"], row["judge"], int(row["n"])) == (prompt_set, selector, judge, n):
                value, low, high = (1 - float(row[name]) for name in ("score", "high", "low"))
                return {"value": 1 - float(row["score"]), "low": low and 1 - float(row["high"]), "high": high,
                        "num": int(row["num_prompts"])}  # fmt: skip
    raise ValueError(f"Expected a point of {selector} judged by {judge} at n={n} for {prompt_set!r} in `{curve}`.")
