"""Collects the results of studies/lm_speed/run.sh: results.json, and the table of README.md, in this folder.

    python -m studies.lm_speed.collect [--runs runs/results/lm_speed] [--output studies/lm_speed/results.json]

Computes nothing. A benchmark that was not run has no rows; without runs, the tables are rendered from the json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from studies.collected import date_and_machine, read_json, table, write_json, write_page

BENCHMARKS = ("lm_training_step", "lm_data_path", "lm_overhead", "head_loss")
HEADINGS = ("what", "ours", "the other side", "result", "goal")


def gather(runs: Path) -> dict[str, Any]:
    parts = {name: runs / f"{name}.json" for name in BENCHMARKS}
    found = {name: json.loads(path.read_text()) for name, path in parts.items() if path.is_file()}
    return date_and_machine() | found


def step_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for name, case in found.items():
        if name != "about":
            rates = case["useful_tokens_per_second"]
            rows.append((
                f"training step, lengths of {name} (fill {case['fill']:.2f})", f"{rates['ours']:,} tokens/s",
                f"{rates['recipe']:,} tokens/s", f"{case['speedup']:.1f} times", f"at least {case['goal']:.1f} times",
            ))  # fmt: skip
    return rows


def data_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    rates, resume = found["useful_tokens_per_second"], found["resume"]
    rows = [
        (
            f"data path, text as {name}", f"{rates[name]:,} tokens/s", f"{rates['recipe']:,} tokens/s",
            f"{ratio:.0f} times", f"at least {found['goal']:,} tokens/s",
        )
        for name, ratio in found["ours_over_recipe"].items()
    ]  # fmt: skip
    seconds = f"{resume['seconds_to_first_batch']:.2f} s"
    what = f"first batch after a resume in the middle of {resume['num_samples']:,} samples"
    return [*rows, (what, seconds, "–", seconds, f"at most {resume['goal']:.0f} s")]


def overhead_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    both = {name: f"{value:.2f} ms" for name, value in found["milliseconds"].items()}
    result = f"{found['milliseconds_per_step']:.2f} ms more"
    return [("host's time of a step under the Trainer", both["trainer"], both["bare"], result, "at most 1 ms more")]


def head_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    what = f"head and loss of {found['num_tokens']:,} tokens, {found['vocab_size']:,} words"
    seconds, megabytes = found["seconds"], found["peak_megabytes"]
    return [
        (
            f"{what}: time", f"{seconds['ours']:.2f} s", f"{seconds['naive']:.2f} s",
            f"{found['time_ratio']:.2f} times", "at most 0.85 times",
        ),
        (
            f"{what}: memory", f"{megabytes['ours']:,} MB", f"{megabytes['naive']:,} MB",
            f"{found['peak_ratio']:.2f} times", "at most 0.15 times",
        ),
    ]  # fmt: skip


ROWS = dict(zip(BENCHMARKS, (step_rows, data_rows, overhead_rows, head_rows), strict=True))


def speed_table(found: dict[str, Any]) -> list[str]:
    rows = [row for name, rows_of in ROWS.items() if name in found for row in rows_of(found[name])]
    return [f"{found['date']}, {found['machine']}.", "", *table(HEADINGS, rows)]


def memory_table(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, shape in (("wide", "wide"), ("deep", "deep"), ("deep_recomputed", None)):
        one = found[name]
        what = f"{one['parameters'] / 1e6:.0f}M parameters, {shape}" if shape else "the same, activations recomputed"
        sizes = [f"{one[f'{key}_megabytes']:,} MB" for key in ("planned", "measured")]
        rows.append([what, *sizes, f"{one['planned_over_measured']:.3f}"])
    return table(["network", "planned", "measured", "planned / measured"], rows)


def short_documents_table(found: dict[str, Any]) -> list[str]:
    rows = [
        [what, f"{one['plain']:.1f} ms", f"{one['fused']:.1f} ms", f"{one['plain_over_fused']:.2f} times"]
        for what, one in found["milliseconds"].items()
    ]
    about = f"{found['date']}, {found['device']}, torch {found['torch']}, threads: {found['num_threads']}."
    return [about, "", *table(["what", "plain products", "fused kernel", "time"], rows)]


def processes_table(found: dict[str, Any]) -> list[str]:
    times = [f"{found['milliseconds'][way]:.0f} ms" for way in ("two processes", "one process")]
    machine = f"{found['device']}, {found['num_cores']} cores, torch {found['torch']}"
    row = [*times, f"{found['speedup']:.2f} times"]
    lines = table(["two processes", "one process", "updates in the same time"], [row])
    return [f"{found['date']}, {machine}, {found['precision']}.", "", *lines]


def tables(folder: Path) -> dict[str, list[str]]:
    """The lines of each table of README.md, of the json files in `folder`."""
    rendered = {
        "results.json": ("table", speed_table),
        "memory.json": ("memory", memory_table),
        "short_documents.json": ("short documents", short_documents_table),
        "processes.json": ("processes", processes_table),
    }
    return {
        name: lines_of(found)
        for file, (name, lines_of) in rendered.items()
        if (found := read_json(folder / file)) is not None
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/results/lm_speed"))
    parser.add_argument("--output", type=Path, default=Path("studies/lm_speed/results.json"))
    given = parser.parse_args()
    if given.runs.is_dir():
        write_json(gather(given.runs), given.output)
    write_page(given.output.parent, found := tables(given.output.parent))
    print("\n".join(found["table"]))
    print(f"\nwritten to {given.output.parent}")


if __name__ == "__main__":
    main()
