"""Collects the results of studies/two_directions/run.sh in studies/two_directions/results.json, and prints tables.

    python -m studies.two_directions.collect [--runs runs/two_directions] [--output FILE.json]

Error is 1 - score. Differences of speaker similarity are paired by text and target voice; their intervals resample
texts, because the voices share them.
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from modules.statistics import Ends, Resamples, difference_ends, ratio_intervals
from studies.collected import cell, date_and_machine, table, write_json

COSINE: Ends = (-1.0, 1.0)
STAGES = ("lm", "speak", "listen", "voices_tokens", "voices_lm", "voices")
DIFFERENCES = {
    "own voice minus another": ("own voice", "another voice"),
    "own voice minus no voice": ("own voice", "no voice"),
}


def spoken_errors(curve: Path) -> dict[str, Any]:
    """Error of a random sample, by prompt set."""
    with curve.open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["selector"] == "random" and row["n"] == "1"]
    return {
        row["prompt_set"]: {
            "value": 1 - float(row["score"]),
            "low": 1 - float(row["high"]),
            "high": 1 - float(row["low"]),
            "num": int(row["num_prompts"]),
            "num_never_ended": int(row["num_runaways"]),
        }
        for row in rows
    }


def similarities(candidates: Path) -> dict[str, dict[tuple[str, str], float]]:
    """Speaker similarity to the target voice by prompt set and (language, text): the mean over scored candidates."""
    found: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    with candidates.open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            found[row["prompt_set"]][row["language"], row["text"]].append(float(row["speaker"] or "nan"))
    return {
        prompt_set: {key: float(np.nanmean(values)) for key, values in prompts.items() if not np.isnan(values).all()}
        for prompt_set, prompts in found.items()
    }


def clustered(values: dict[tuple[str, str], float], ends: Ends = COSINE) -> dict[str, float]:
    """Mean of values by (language, text), with an interval over texts; `ends` is the range of a value."""
    texts = sorted({text for _, text in values})
    sums, counts = np.zeros(len(texts)), np.zeros(len(texts))
    for (_, text), value in values.items():
        sums[texts.index(text)] += value
        counts[texts.index(text)] += 1
    ((low, high),) = ratio_intervals(sums[None], counts, Resamples.draw(len(texts), seed=0), ends).tolist()
    return {"value": float(sums.sum() / counts.sum()), "low": low, "high": high, "num": len(values)}


def voice_results(candidates: Path) -> dict[str, Any]:
    """Similarities by prompt set, and their paired differences: of all voices, and of each."""
    by_set = similarities(candidates)
    differences: dict[str, Any] = {}
    for name, (first, second) in DIFFERENCES.items():
        shared = by_set[first].keys() & by_set[second].keys()
        paired = {key: by_set[first][key] - by_set[second][key] for key in sorted(shared)}
        languages = sorted({language for language, _ in paired})
        parts = {one: {key: value for key, value in paired.items() if key[0] == one} for one in languages}
        ends = difference_ends(COSINE)
        differences[name] = {"all": clustered(paired, ends)} | {
            one: clustered(part, ends) for one, part in parts.items()
        }
    return {
        "similarity": {name: clustered(values) for name, values in by_set.items()},
        "differences": differences,
    }


def stage_times(runs: Path) -> dict[str, dict[str, float]]:
    found = {}
    for name in STAGES:
        for marker in (runs / name).glob("stage_*.json"):
            about = json.loads(marker.read_text(encoding="utf-8"))
            found[name] = {"seconds": about["seconds"], "peak_gb": about["peak_gb"]}
    return found


def gather(runs: Path) -> dict[str, Any]:
    """Collect the results of all finished runs."""
    found: dict[str, Any] = {
        **date_and_machine(),
        "stages": stage_times(runs),
    }
    if (curve := runs / "speak/report/curve.csv").is_file():
        found["text_to_speech_error"] = spoken_errors(curve)
    if (heard := runs / "listen/understanding.json").is_file():
        about = json.loads(heard.read_text(encoding="utf-8"))
        found["speech_to_text_error"] = about["error_rates"]
        found["speech_to_text_never_ended"] = about["num_never_ended"]
    if (candidates := runs / "voices/report/candidates.csv").is_file():
        found["voices"] = voice_results(candidates)
    return found


def markdown(found: dict[str, Any]) -> str:
    """Format the results as tables."""
    rows = [
        [direction.removesuffix("_error"), name, cell(point), point["num"]]
        for direction in ("text_to_speech_error", "speech_to_text_error")
        for name, point in found.get(direction, {}).items()
    ]
    lines = table(["direction", "strings", "error", "prompts"], rows)
    voices = found.get("voices", {"similarity": {}, "differences": {}})
    points = voices["similarity"] | {
        f"{name}, {part}": point for name, parts in voices["differences"].items() for part, point in parts.items()
    }
    rows = [[name, cell(point), point["num"]] for name, point in points.items()]
    lines += ["", *table(["spoken prompt", "similarity to the wanted voice", "prompts"], rows)]
    rows = [[name, f"{one['seconds']:.0f}", f"{one['peak_gb']:.1f}"] for name, one in found["stages"].items()]
    return "\n".join([*lines, "", *table(["stage", "seconds", "GB"], rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/two_directions"))
    parser.add_argument("--output", type=Path, default=Path("studies/two_directions/results.json"))
    given = parser.parse_args()
    found = gather(given.runs)
    write_json(found, given.output)
    print(markdown(found))
    print(f"\nwritten to {given.output}")


if __name__ == "__main__":
    main()
