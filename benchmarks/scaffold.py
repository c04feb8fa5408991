"""Shared by the benchmarks that time in turns (all but sampling_ties): options, timing, versions and machine, result as
JSON."""

import argparse
import importlib.metadata
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch


def options(description: str) -> argparse.ArgumentParser:
    """A parser whose help is the benchmark's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", "--output", type=Path, help="also write the result here")
    return parser


def seconds_of(call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> tuple[float, Any]:
    """Seconds of a call, and its result. On a machine that others use, `time.process_time` is steadier for work of
    one process."""
    start = clock()
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start, result


def median_seconds(
    calls: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """The median over `rounds` of the seconds of each call; in every round each is timed once, in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds_of(call, clock)[0])
    return {name: statistics.median(values) for name, values in times.items()}


def machine(*packages: str, on_gpu: bool = False) -> dict[str, str]:
    """Device, date, and the versions of torch and the packages."""
    return {
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        **{name: importlib.metadata.version(name) for name in ("torch", *packages)},
        "date": date.today().isoformat(),
    }


def report(result: Mapping[str, Any], path: Path | None) -> None:
    """Print the result, and write it to `path` if one is given."""
    text = json.dumps(result, indent=1)
    print(text)
    if path is not None:
        path.write_text(text + "\n", encoding="utf-8")
