"""Collects the runs of studies/new_language/run.sh in results.json, draws results.png, and fills the README's tables.

    python -m studies.new_language.collect [--runs runs/new_language]

A run's folder is START_AMOUNT_SEED: scratch_3_0, grown_all_1. Computes nothing but means over seeds. A measurement that
is not there has no table; without runs, the tables are rendered from the json.
"""

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from datamodules.shards.shards import ShardIndex
from studies.collected import date_and_machine, read_json, table, write_json, write_page

HERE = Path(__file__).parent
STARTS = {"scratch": "from scratch", "grown": "from a model of other languages"}
TAG = "val/bits_per_second_of_audio"


def minutes_of(folder: Path) -> float:
    index = ShardIndex.load(folder, "tokens")
    return float(index.lengths.sum()) / index.header["frame_rate"] / 60


def curve_of(run: Path) -> dict[int, float]:
    """Bits per second of held-out speech by number of updates."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {event.step + 1: event.value for event in events.Scalars(TAG)}


def gather(runs: Path) -> dict[str, Any]:
    """{start: {amount: {minutes, seeds: {seed: curve}}}} of the finished runs, and the model of the other languages."""
    found: dict[str, Any] = {**date_and_machine(), "curves": defaultdict(dict)}
    for run in sorted(runs.iterdir()):
        named = re.fullmatch(rf"({'|'.join(STARTS)})_(\w+)_(\d+)", run.name)
        if named is None or not json.loads((run / "stage_fit.json").read_text())["finished"]:
            continue
        start, amount, seed = named.groups()
        split = "train" if amount == "all" else f"train_{amount}"
        of_amount = found["curves"][start].setdefault(
            amount, {"minutes": minutes_of(runs / "tokens" / split), "seeds": {}}
        )
        of_amount["seeds"][seed] = curve_of(run)
    found["held_out_minutes"] = minutes_of(runs / "tokens/held_out")
    if (runs / "known_lm/tensorboard").is_dir():
        found["known"] = {"minutes": minutes_of(runs / "known/train"), "curve": curve_of(runs / "known_lm")}
    return found


def points(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each start and amount: lowest and last value of each seed."""
    rows = []
    for start, amounts in found["curves"].items():
        for one in amounts.values():
            curves = [list(curve.items()) for curve in one["seeds"].values()]
            best = [min(curve, key=lambda point: point[1]) for curve in curves]
            rows.append(
                {
                    "start": start,
                    "minutes": one["minutes"],
                    "lowest": [value for _, value in best],
                    "steps": [int(step) for step, _ in best],
                    "last": [curve[-1][1] for curve in curves],
                }
            )
    return sorted(rows, key=lambda row: (row["minutes"], row["start"]))


def spread(values: list[float]) -> str:
    """The mean, with the least and greatest of several seeds."""
    if len(values) == 1:
        return f"{values[0]:.0f}"
    return f"{mean(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def curve_table(found: dict[str, Any]) -> list[str]:
    rows = [
        (
            f"{row['minutes']:.1f}",
            STARTS[row["start"]],
            len(row["lowest"]),
            spread(row["lowest"]),
            ", ".join(map(str, row["steps"])),
            spread(row["last"]),
        )
        for row in points(found)
    ]
    headings = ("minutes of Russian", "model", "seeds", "lowest, bits/s", "after updates", "at the end, bits/s")
    return table(headings, rows)


def template_table(found: dict[str, Any]) -> list[str]:
    languages = list(found["templates"])
    names = list(found["templates"][languages[0]])
    rows = [[name, *(f"{found['templates'][one][name]['error']:.3f}" for one in languages)] for name in names]
    return table(("clips", *languages), rows)


def recogniser_table(found: dict[str, Any]) -> list[str]:
    rows = []
    for other, languages in found["others"].items():
        for language, clips in languages.items():
            for name, one in clips.items():
                own = found["templates"][language][name]["heard"][: one["num_strings"]]
                agreed = sum(map(str.__eq__, own, one["heard"]))
                rows.append(
                    (other, language, name, f"{one['error']:.3f}", one["num_words"], f"{agreed}/{one['num_strings']}")
                )
    headings = ("recogniser", "language", "clips", "word error", "words", "strings heard as by the templates")
    return table(headings, rows)


def draw(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for start, name in STARTS.items():
        rows = [row for row in points(found) if row["start"] == start]
        axes.plot([row["minutes"] for row in rows], [mean(row["lowest"]) for row in rows], marker="o", label=name)
        for row in rows:
            axes.plot([row["minutes"]] * len(row["lowest"]), row["lowest"], ".", color="grey", markersize=3)
    axes.set(xscale="log", xlabel="minutes of Russian speech", ylabel="bits per second of held-out speech (lowest)")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def tables(folder: Path) -> dict[str, list[str]]:
    """The lines of each table of README.md, of the json files in `folder`."""
    rendered = {"curves": curve_table(json.loads((folder / "results.json").read_text()))}
    if (recognisers := read_json(folder / "recognisers.json")) is not None:
        rendered |= {"templates": template_table(recognisers), "recognisers": recogniser_table(recognisers)}
    return rendered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/new_language"))
    given = parser.parse_args()
    if given.runs.is_dir():
        write_json(gather(given.runs), HERE / "results.json")
    draw(json.loads((HERE / "results.json").read_text()), HERE / "results.png")
    write_page(HERE, found := tables(HERE))
    print("\n".join(found["curves"]))


if __name__ == "__main__":
    main()
