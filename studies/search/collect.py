"""Collects the results of studies/search/run.sh: results.json, results.png and the tables of README.md in this folder.

    python -m studies.search.collect [--runs runs/search] [--results studies/search]

Errors are 1 - score. A difference is averaged over the seeds' runs for each prompt; its interval resamples prompts,
whose texts the runs share, and its standard deviation is over the runs. The tables are written between marks in
README.md; without runs, they are rendered from the json.
"""

import argparse
import json
import statistics
from collections import Counter, defaultdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from modules.search.analysis.results import read_rows
from modules.statistics import Resamples, bootstrap_interval, difference_ends, sign_flip_p_value
from studies.collected import table, write_json, write_page

STEERED_BY, JUDGE = "pocketsphinx", "whisper"
JUDGE_ENDS = (0.0, 1.0)  # range of the judge's score, 1 - error


def best_of_n(folders: list[Path]) -> dict[str, list[dict[str, float]]]:
    """Means over the runs of error and FLOPs at every n of the table, for the selectors and random choice."""
    points: dict[str, dict[int, list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for folder in folders:
        for row in read_rows(folder / "report/curve.csv"):
            if row["algorithm"] == "best_of_n" and row["judge"] == JUDGE:
                points[row["selector"]][int(row["n"])].append(row)
    return {
        selector: [
            {
                "n": n,
                "error": 1 - statistics.mean(float(row["score"]) for row in rows),
                "errors": [1 - float(row["score"]) for row in rows],
                "flops": statistics.mean(float(row["flops"]) for row in rows),
            }
            for n, rows in sorted(by_n.items())
        ]
        for selector, by_n in points.items()
        if not selector.startswith("oracle")
    }


def equal_compute(folders: list[Path]) -> list[dict[str, Any]]:
    """Compare each search with best-of-n at equal FLOPs, over all runs."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for folder in folders:
        summary = json.loads((folder / "report/summary.json").read_text(encoding="utf-8"))
        most: dict[str, dict[str, Any]] = {}
        for row in summary["equal_compute"]:
            if row["judge"] == JUDGE and row["search"].endswith(f": {STEERED_BY}") and row["n"] is not None:
                known = most.get(row["search"])  # a search of several points: use the one with all its candidates
                most[row["search"]] = row if known is None or row["flops"] > known["flops"] else known
        for name, row in most.items():
            runs[name.rsplit(" T=", 1)[0]].append(row)
    return [joined(name, rows) for name, rows in runs.items()]


def joined(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    difference_P = -np.mean([row["differences_P"] for row in rows], axis=0)  # differences of errors
    resamples = Resamples.draw(len(difference_P), seed=0)
    low, high = bootstrap_interval(difference_P, resamples, difference_ends(JUDGE_ENDS))
    by_seed = [-row["difference"] for row in rows]

    def mean(field: str) -> float:
        return statistics.mean(row[field] for row in rows)

    return {
        "search": name,
        "error": 1 - mean("score"),
        "flops": mean("flops"),
        "n": mean("n"),
        "best_of_n_error": 1 - mean("baseline_score"),
        "best_of_n_flops": mean("baseline_flops"),
        "difference": float(difference_P.mean()),
        "low": low,
        "high": high,
        "p_value": sign_flip_p_value(difference_P, 0),
        "by_seed": by_seed,
        "num_runs": len(rows),
        "seed_deviation": statistics.stdev(by_seed) if len(by_seed) > 1 else None,
        "num_prompts": rows[0]["num_prompts"],
    }


def flops_parts(folders: list[Path]) -> dict[str, dict[str, float]]:
    """Shares of language model, codec and verifiers in the FLOPs of each search, and codes per digit."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    known_prompts = set()
    for folder in folders:
        for row in read_rows(folder / "report/candidates.csv"):
            for part in ("lm_flops", "codec_flops", "verifier_flops", "num_codes"):
                sums[row["algorithm"]][part] += float(row[part])
            prompt = (folder, row["algorithm"], row["prompt_key"])  # processed once for all its candidates
            sums[row["algorithm"]]["lm_flops"] -= float(row["prompt_flops"]) if prompt in known_prompts else 0.0
            known_prompts.add(prompt)
            sums[row["algorithm"]]["verifier_flops"] += float(row[f"{STEERED_BY}_flops"] or 0)
            sums[row["algorithm"]]["num_digits"] += len(row["text"].split())
    return {
        name: {
            "language model": one["lm_flops"] / (total := one["lm_flops"] + one["codec_flops"] + one["verifier_flops"]),
            "codec": one["codec_flops"] / total,
            "verifier": one["verifier_flops"] / total,
            "codes_per_digit": one["num_codes"] / one["num_digits"],
        }
        for name, one in sums.items()
    }


def over_optimisation(folders: list[Path]) -> list[dict[str, Any]]:
    """Gains of the selectors compared with their judges', per run."""
    kept = []
    for folder in folders:
        for row in read_rows(folder / "report/over_optimisation.csv"):
            if row["algorithm"] == "best_of_n":
                numbers = {key: float(value) for key, value in row.items() if key.endswith(("gain", "low", "high"))}
                names = {key: row[key] for key in ("selector", "judge", "warning")}
                kept.append({"run": folder.name} | names | numbers | {"n": int(row["n"])})
    return kept


def gather(runs: Path, results: Path) -> dict[str, Any]:
    folders = sorted(path.parent.parent for path in runs.glob("algorithms_[0-9]/report/summary.json"))
    if not folders:
        raise FileNotFoundError(
            f"Expected sweeps in `{runs}`/algorithms_*, but got none: studies/search/run.sh makes them."
        )
    about = [
        json.loads((folder / "report/summary.json").read_text(encoding="utf-8"))["description"] for folder in folders
    ]
    if len({one["seed"] for one in about}) < len(about) or any(
        one["num_prompts"] != about[0]["num_prompts"] for one in about
    ):
        raise ValueError(
            f"Expected runs of different seeds on the same prompts, but got {[one['seed'] for one in about]}."
        )
    costs = results / "costs.json"
    return {
        "date": date.today().isoformat(),
        "runs": [folder.name for folder in folders],
        "seeds": [one["seed"] for one in about],
        "num_prompts": about[0]["num_prompts"],
        "temperature": about[0]["sampling"]["temperature"],
        "versions": about[0]["versions"],
        "verifiers": about[0]["verifiers"],
        "models": [one["model_hash"] for one in about],
        "best_of_n": best_of_n(folders),
        "equal_compute": equal_compute(folders),
        "flops_parts": flops_parts(folders),
        "adaptive_early_stops": early_stops(folders),
        "over_optimisation": over_optimisation(folders),
        "costs": json.loads(costs.read_text(encoding="utf-8")) if costs.is_file() else None,
    }


def sample_table(found: dict[str, Any]) -> list[str]:
    numbers = [point["n"] for point in found["best_of_n"][STEERED_BY]]
    rows = [
        ["chance" if selector == "random" else selector, *(f"{point['error']:.3f}" for point in points)]
        for selector, points in found["best_of_n"].items()
    ]
    flops = [f"{point['flops'] / 1e9:.0f}" for point in found["best_of_n"][STEERED_BY]]
    rows.append([f"GFLOPs for a prompt, with {STEERED_BY}", *flops])
    return table(["chosen by", *(f"n = {n}" for n in numbers)], rows)


def search_table(found: dict[str, Any]) -> list[str]:
    rows = []
    for row in found["equal_compute"]:
        seeds = ", ".join(f"{one:+.3f}" for one in row["by_seed"])
        difference = f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        cells = [row["search"], f"{row['flops'] / 1e9:.0f}", f"{row['error']:.3f}", f"{row['n']:.1f}"]
        rows.append([*cells, f"{row['best_of_n_error']:.3f}", difference, f"{row['p_value']:.4f}", seeds])
    headings = ["search", "GFLOPs", "error", "best-of-n for as much: n", "error", "difference", "p", "each seed"]
    return table(headings, rows)


def early_stops(folders: list[Path]) -> list[int]:
    """For each run: the number of prompts for which adaptive sampling stopped before its maximum."""
    found = []
    for folder in folders:
        rows = [row for row in read_rows(folder / "report/candidates.csv") if row["algorithm"] == "adaptive"]
        drawn = Counter(row["prompt_key"] for row in rows)
        found.append(sum(number < max(drawn.values()) for number in drawn.values()))
    return found


def parts_table(found: dict[str, Any]) -> list[str]:
    parts = ["language model", "codec", "verifier"]
    rows = [[name, *(f"{one[part]:.0%}" for part in parts)] for name, one in found["flops_parts"].items()]
    return table(["of its FLOPs", *parts], rows)


def warning_table(found: dict[str, Any]) -> list[str]:
    rows = []
    for row in found["over_optimisation"]:
        own = f"{row['own_gain']:+.2f} [{row['own_low']:+.2f}, {row['own_high']:+.2f}]"
        judge = f"{row['judge_gain']:+.2f} [{row['judge_low']:+.2f}, {row['judge_high']:+.2f}]"
        rows.append([row["run"], row["selector"], row["judge"], own, judge, row["warning"] or "–"])
    headings = ["run", "chosen by", "judged by", "its own gain", "the judge's gain", "what the report says"]
    return table(headings, rows)


def cost_tables(found: dict[str, Any]) -> list[str]:
    if (costs := found["costs"]) is None:
        return []
    demo, large = costs["demo"], costs["1B"]
    flops = demo["flops_shares"] | {"language model": demo["flops_shares"]["prefill"] + demo["flops_shares"]["decode"]}
    rows = []
    for name, seconds in demo["measured_seconds"].items():
        ratio = f"{demo['scoring'][name]['ratio']:.2f}" if seconds > 1e-3 and name in demo["scoring"] else "–"
        rows.append([name, f"{seconds:.3f}", f"{demo['measured_shares'][name]:.0%}", f"{flops[name]:.0%}", ratio])
    lines = table(["the demo, a candidate", "seconds", "share", "share of FLOPs", "one by one / 16 at once"], rows)
    rows = [
        [name, f"{one / 1e9:.1f}", f"{large['flops_shares'][name]:.1%}"]
        for name, one in large["flops_per_second_of_audio"].items()
    ]
    return [*lines, "", *table(["1B, a second of audio", "GFLOPs", "share"], rows)]


def draw(found: dict[str, Any], path: Path) -> None:
    """Plot error over FLOPs: the curve of best-of-n, and a point for each search."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    curve = found["best_of_n"][STEERED_BY]
    axes.plot([one["flops"] / 1e9 for one in curve], [one["error"] for one in curve], "o-", label="best-of-n")
    for one in curve:
        axes.annotate(
            f"n = {one['n']}", (one["flops"] / 1e9, one["error"]), (4, 5), textcoords="offset points", fontsize=8
        )
    for row, marker in zip(found["equal_compute"], "s^DvP*X", strict=False):
        axes.plot(row["flops"] / 1e9, row["error"], marker, markersize=9, label=row["search"].replace("_", " "))
    axes.set(xscale="log", xlabel="GFLOPs for a prompt", ylabel="digit error, judged by Whisper")
    axes.margins(x=0.12)
    axes.set_ylim(0, 1.1 * max(one["error"] for one in [*curve, *found["equal_compute"]]))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


TABLES = {
    "samples": sample_table,
    "searches": search_table,
    "parts": parts_table,
    "costs": cost_tables,
    "warnings": warning_table,
}


def tables(folder: Path) -> dict[str, list[str]]:
    """The lines of each table of README.md, of results.json in `folder`."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {name: lines_of(found) for name, lines_of in TABLES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/search"))
    parser.add_argument("--results", type=Path, default=Path("studies/search"))
    arguments = parser.parse_args()
    if arguments.runs.is_dir():
        found = gather(arguments.runs, arguments.results)
        write_json(found, arguments.results / "results.json")
        draw(found, arguments.results / "results.png")
    write_page(arguments.results, tables(arguments.results))
    print(f"written to {arguments.results}")


if __name__ == "__main__":
    main()
