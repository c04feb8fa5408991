"""The curves of a training: what a fit logged to TensorBoard, over updates and minutes, thinned.

A resumed fit has one events file for each attempt: updates that a later attempt made again replace those of the earlier
one, and the minutes are those of all attempts, without the time between them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studies.collected import fit_settings

NUM_POINTS = 40
KEPT = ("train/", "val/")
# Tags until 27 November 2026.
EARLIER = {"speed/": "train/", "lr-": "train/lr-", "memory/peak_gb": "train/peak_memory_gb"}
# Values of single batches: a point of the thinned curve is the mean since the one before it. All others are picked.
AVERAGED = ("train/",)

Curve = list[tuple[int, float, float]]  # updates, minutes, value


@dataclass(frozen=True)
class Training:
    """updates: the last one that was logged. minutes: of all attempts, from the first event of each. curves: by tag."""

    updates: int
    minutes: float
    num_attempts: int
    curves: dict[str, Curve]


def present_name(tag: str) -> str:
    """The present name of a tag."""
    for earlier, now in EARLIER.items():
        if tag.startswith(earlier):
            return now + tag.removeprefix(earlier)
    return tag


def read_training(run: Path) -> Training:
    """Read what a fit logged. Raises FileNotFoundError for a folder without events."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves: dict[str, Curve] = {}
    minutes, num_attempts = 0.0, 0
    for path in sorted((run / "tensorboard").glob("events.out.tfevents.*")):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
        tags = {tag: name for tag in events.Tags()["scalars"] if (name := present_name(tag)).startswith(KEPT)}
        if not tags:
            continue
        start, last = events.FirstEventTimestamp(), 0.0
        points = {name: events.Scalars(tag) for tag, name in tags.items()}
        first = min(event.step for one in points.values() for event in one)
        for curve in curves.values():
            curve[:] = [point for point in curve if point[0] <= first]
        for tag, one in points.items():
            curve = curves.setdefault(tag, [])
            curve += [(event.step + 1, minutes + (event.wall_time - start) / 60, event.value) for event in one]
            last = max(last, one[-1].wall_time - start)
        minutes += last / 60
        num_attempts += 1
    if not curves:
        raise FileNotFoundError(f"Expected TensorBoard events in `{run}`/tensorboard, but got none.")
    return Training(max(curve[-1][0] for curve in curves.values()), minutes, num_attempts, curves)


def thinned(curve: Curve, averaged: bool, num_points: int = NUM_POINTS) -> Curve:
    """At most `num_points` points, the first and the last among them: picked evenly, or between the first and the last
    means over equal parts, each at its last update."""
    if len(curve) <= num_points:
        return curve
    if not averaged:
        places = np.unique(np.linspace(0, len(curve) - 1, num_points).round().astype(int))
        return [curve[place] for place in places]
    parts = np.array_split(np.arange(1, len(curve)), num_points - 1)
    return [curve[0]] + [(*curve[part[-1]][:2], float(np.mean([curve[place][2] for place in part]))) for part in parts]


def rounded(value: float) -> float:
    """To five significant digits."""
    return float(f"{value:.5g}")


def settings(run: Path) -> dict[str, Any]:
    """What the stage's marker holds of the run: seed, planned updates, precision, date, and whether it has finished."""
    marker = run / "stage_fit.json"
    if not marker.is_file():
        return {}
    about = json.loads(marker.read_text(encoding="utf-8"))
    date = {"date": about["date"]} if about.get("date") else {}
    return fit_settings(run) | {"finished": about["finished"]} | date


def thinned_training(run: Path) -> dict[str, Any]:
    """The training of a run as json. A curve is {tag: [[updates, minutes, value], ...]}."""
    training = read_training(run)

    def shown(tag: str) -> Iterator[list[float]]:
        for step, minutes, value in thinned(training.curves[tag], tag.startswith(AVERAGED)):
            yield [step, round(minutes, 2), rounded(value)]

    return {
        **settings(run),
        "updates": training.updates,
        "minutes": round(training.minutes, 1),
        "num_attempts": training.num_attempts,
        "curves": {tag: list(shown(tag)) for tag in sorted(training.curves)},
    }
