"""Collects the results of studies/two_directions/run.sh in studies/two_directions/results.json, and fills README.md.

    python -m studies.two_directions.collect [--runs runs/two_directions] [--output FILE.json]

Without runs, the tables are rendered from the json.

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
from studies.collected import cell, date_and_machine, table, write_json, write_page

COSINE: Ends = (-1.0, 1.0)
STAGES = ("lm", "speak", "listen", "voices_tokens", "voices_lm", "voices")
DIFFERENCES = {
    "own voice minus another": ("own voice", "another voice"),
    "own voice minus no voice": ("own voice", "no voice"),
}
SHOWN = {"no voice": "none"}  # name of a prompt set: on the page
LANGUAGES = {
    "all": "all voices",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "ru": "Russian",
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


def error_table(found: dict[str, Any]) -> list[str]:
    rows = [
        [direction, name, cell(point), point["num"]]
        for direction, part in (("spoken", "text_to_speech_error"), ("written down", "speech_to_text_error"))
        for name, point in found.get(part, {}).items()
    ]
    return table(["direction", "strings", "error", "prompts"], rows)


def similarity_table(found: dict[str, Any]) -> list[str]:
    rows = [[SHOWN.get(name, name), cell(point), point["num"]] for name, point in found["voices"]["similarity"].items()]
    return table(["spoken prompt", "similarity to the wanted voice", "prompts"], rows)


def signed_cell(point: dict[str, float]) -> str:
    return "{value:+.3f} [{low:.3f}, {high:.3f}]".format(**point)


def difference_table(found: dict[str, Any]) -> list[str]:
    differences = found["voices"]["differences"]
    rows = [
        [name.replace("no voice", "none"), *(signed_cell(parts[part]) for part in LANGUAGES)]
        for name, parts in differences.items()
    ]
    return table(["difference", *LANGUAGES.values()], rows)


def stage_table(found: dict[str, Any]) -> list[str]:
    rows = [[name, f"{one['seconds']:.0f}", f"{one['peak_gb']:.1f}"] for name, one in found["stages"].items()]
    return table(["stage", "seconds", "GB"], rows)


def tables(folder: Path) -> dict[str, list[str]]:
    """The lines of each table of README.md, of results.json in `folder`."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    rendered = {"errors": error_table(found), "stages": stage_table(found)}
    if "voices" in found:
        rendered |= {"similarities": similarity_table(found), "differences": difference_table(found)}
    return rendered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/two_directions"))
    parser.add_argument("--output", type=Path, default=Path("studies/two_directions/results.json"))
    given = parser.parse_args()
    if given.runs.is_dir():
        write_json(gather(given.runs), given.output)
    write_page(given.output.parent, tables(given.output.parent))
    print(f"written to {given.output.parent}")


if __name__ == "__main__":
    main()
