"""Collects the results of studies/own_voice/run.sh: results.json, results.png and the tables of README.md beside it.

    python -m studies.own_voice.collect [--runs runs/own_voice] [--results studies/own_voice]

Values of a prompt are means over the seeds, each with its adaptation and its samples; intervals resample prompts, and
differences are paired by prompt. A sample that could not be judged counts as the worst, 0 similarity or 1 error.
Without runs, the tables are rendered from the json.
"""

import argparse
import csv
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from modules.statistics import Ends, Resamples, bootstrap_interval, difference_ends
from studies.collected import cell, date_and_machine, table, write_json, write_page

BASE = "base"
METHODS = {
    "lora": "LoRA, rank 8 of q and v, 5e-4 (the authors')",
    "lora_all": "LoRA, rank 8 of all layers, 2e-3",
    "lora_embeddings": "the same, with embedding and head",
    "full": "whole network, 1e-4",
}
MEASURES = {"similarity": "speaker", "digit_error": "digits"}  # column of candidates.csv
ENDS: Ends = (0.0, 1.0)  # Resemblyzer's embeddings have no negative entries, nor has a cosine of two
ALONE = "own voice"  # with a spoken prompt; of the base it is the spoken prompt alone
SPOKEN = {"own voice": "with", "no voice": "without"}

Values = dict[str, list[float]]  # measure: one value of each prompt


def judged_runs(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Of one seed, by (model, prompt set): the values of the prompts in the order of their texts, and counts of samples
    that never ended and that a judge could not score."""
    with (folder / "report/candidates.csv").open(encoding="utf-8") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: row["text"])
    found: dict[tuple[str, str], dict[str, Any]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        one = found[row["model"], row["prompt_set"]]
        scores = {name: float(row[column] or "nan") for name, column in MEASURES.items()}
        one["text"].append(row["text"])
        one["similarity"].append(max(0.0, float(np.nan_to_num(scores["similarity"]))))
        one["digit_error"].append(1 - float(np.nan_to_num(scores["digit_error"])))
        one["never_ended"].append(row["stopped"] == "0")
        one["unjudged"].append(any(np.isnan(list(scores.values()))))
    return {key: dict(one) for key, one in found.items()}


def point(runs: list[list[float]], ends: Ends = ENDS) -> dict[str, Any]:
    """Mean over seeds and prompts with its interval over prompts, and the mean of each seed."""
    values_SP = np.array(runs)
    low, high = bootstrap_interval(values_SP.mean(axis=0), Resamples.draw(values_SP.shape[1], seed=0), ends)
    return {
        "value": float(values_SP.mean()),
        "low": low,
        "high": high,
        "by_seed": values_SP.mean(axis=1).tolist(),
        "by_prompt": values_SP.mean(axis=0).round(4).tolist(),
    }


def curve(runs: list[dict[tuple[str, str], dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each model and prompt set, with its difference to the base with a spoken prompt."""
    alone, rows = [run[BASE, ALONE] for run in runs], []
    for model, prompt_set in runs[0]:
        own = [run[model, prompt_set] for run in runs]
        if any(one["text"] != alone[0]["text"] for one in own):
            raise ValueError(f"Expected {model}, {prompt_set} to have the same texts in every run, but it has others.")
        method, _, step = model.rpartition("_")
        row: dict[str, Any] = {"method": method or BASE, "steps": int(step) if method else 0, "prompt_set": prompt_set}
        for measure in MEASURES:
            row[measure] = point([one[measure] for one in own])
            differences = np.array([one[measure] for one in own]) - np.array([one[measure] for one in alone])
            row[f"{measure}_difference"] = point(differences.tolist(), difference_ends(ENDS))
        row |= {f"num_{name}": sum(sum(one[name]) for one in own) for name in ("never_ended", "unjudged")}
        rows.append(row)
    return rows


def stage_times(runs: Path) -> dict[str, float]:
    """Wall seconds of every finished stage."""
    markers = sorted(runs.glob("*/stage_*.json"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in markers}


def gather(runs: Path) -> dict[str, Any]:
    folders = sorted(path.parent.parent for path in runs.glob("voices_[0-9]/report/candidates.csv"))
    if not folders:
        raise FileNotFoundError(f"Expected sweeps in `{runs}`/voices_*, but got none: studies/own_voice/run.sh.")
    judged = [judged_runs(folder) for folder in folders]
    floor = json.loads((runs / "floor.json").read_text(encoding="utf-8"))
    return {
        **date_and_machine(),
        "num_seeds": len(folders),
        "num_prompts": len(judged[0][BASE, ALONE]["text"]),
        "floor": {name: {measure: point([one]) for measure, one in values.items()} for name, values in floor.items()},
        "curve": curve(judged),
        "seconds": stage_times(runs),
    }


def of(found: dict[str, Any], method: str, prompt_set: str) -> list[dict[str, Any]]:
    """The rows of a method by steps, those of the base first."""
    rows = [row for row in found["curve"] if row["method"] in (method, BASE) and row["prompt_set"] == prompt_set]
    return sorted(rows, key=lambda row: row["steps"])


def floor_table(found: dict[str, Any]) -> list[str]:
    rows = [[name, cell(one["similarity"]), cell(one.get("digit_error"))] for name, one in found["floor"].items()]
    return table(["", "similarity to the new voice", "digit error"], rows)


def curve_table(found: dict[str, Any]) -> list[str]:
    rows = []
    for method in (BASE, *METHODS):
        for prompt_set in SPOKEN:
            for row in of(found, method, prompt_set):
                if row["method"] == method:
                    name = METHODS.get(method, "not adapted")
                    cells = [cell(row["similarity"]), cell(row["digit_error"])]
                    counts = [row["num_never_ended"], row["num_unjudged"]]
                    rows.append([name, row["steps"], SPOKEN[prompt_set], *cells, *counts])
    headings = ["adapted", "updates", "spoken prompt", "similarity", "digit error", "never ended", "not judged"]
    return ["![Similarity and digit error over updates](results.png)", "", *table(headings, rows)]


def difference_table(found: dict[str, Any]) -> list[str]:
    """Adapted to the end, without a spoken prompt, minus the base with one."""
    rows = []
    for method in METHODS:
        for prompt_set in SPOKEN:
            last = of(found, method, prompt_set)[-1]
            cells = []
            for measure in MEASURES:
                one = last[f"{measure}_difference"]
                seeds = ", ".join(f"{value:+.3f}" for value in one["by_seed"])
                cells += ["{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**one), seeds]
            rows.append([METHODS[method], last["steps"], SPOKEN[prompt_set], *cells])
    headings = ["minus the spoken prompt alone", "updates", "spoken prompt", "similarity", "each seed", "digit error"]
    return table([*headings, "each seed"], rows)


def draw(found: dict[str, Any], path: Path) -> None:
    """Plot similarity and digit error over updates: a line for each method without a spoken prompt, a band over seeds,
    and the spoken prompt alone as a horizontal line."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    (alone,) = [row for row in found["curve"] if row["method"] == BASE and row["prompt_set"] == ALONE]
    ceiling = found["floor"]["recording after the codec"]
    for axes, measure in zip(figure.subplots(1, 2), MEASURES, strict=True):
        for method, label in METHODS.items():
            rows = of(found, method, "no voice")
            steps, seeds = [row["steps"] for row in rows], [row[measure]["by_seed"] for row in rows]
            (line,) = axes.plot(steps, [statistics.mean(one) for one in seeds], "o-", label=label)
            axes.fill_between(steps, list(map(min, seeds)), list(map(max, seeds)), color=line.get_color(), alpha=0.2)
        axes.axhline(alone[measure]["value"], color="black", linestyle="--", label="spoken prompt alone, not adapted")
        axes.axhline(ceiling[measure]["value"], color="grey", linestyle=":", label="recording after the codec")
        axes.set(xlabel="updates of the adaptation", ylabel=measure.replace("_", " "))
        axes.grid(alpha=0.3)
    figure.axes[1].set_ylim(-0.03, 1.03)
    figure.axes[1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


TABLES = {"floor": floor_table, "differences": difference_table, "curve": curve_table}


def tables(folder: Path) -> dict[str, list[str]]:
    """The lines of each table of README.md, of results.json in `folder`."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {name: lines_of(found) for name, lines_of in TABLES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/own_voice"))
    parser.add_argument("--results", type=Path, default=Path("studies/own_voice"))
    given = parser.parse_args()
    if given.runs.is_dir():
        found = gather(given.runs)
        write_json(found, given.results / "results.json")
        draw(found, given.results / "results.png")
    write_page(given.results, tables(given.results))
    print(f"written to {given.results}")


if __name__ == "__main__":
    main()
