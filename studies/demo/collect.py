"""Collects the results of runs in one JSON file, studies/demo/results.json, and prints markdown tables.

    python -m studies.demo.collect [--run runs/demo] [--results runs/results] [--timed RUN] [--output FILE.json]

`studies/demo/run.sh` does the runs. Reads stage markers (seconds, peak memory), codec_evaluation.json and curve.csv,
and computes nothing new but error = 1 - score.
"""

import argparse
import csv
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from studies.collected import cell, codec_table, date_and_machine, table, write_json

CODEC_METRICS = ("wer", "stoi", "pesq_nb", "pesq_wb")
CODEC_RUNS = {"codec": "demo", "codec_45min": "codec_45min", "codec_without_discriminators": "codec_mel_only"}
NUM_CANDIDATES = 16
# Lightning's name of an action: its name on the page.
STEP_PARTS = {"run_training_batch": "step", "[_TrainingEpochLoop].train_dataloader_next": "data, before the step"}
LM_PARTS = STEP_PARTS | {
    "[Strategy]SingleDeviceStrategy.training_step": "forward",
    "[Strategy]SingleDeviceStrategy.backward": "backward",
}
CODEC_PARTS = STEP_PARTS | {
    "codec: generator": "generator, forward",
    "codec: reconstruction loss": "mel loss, forward",
    "codec: discriminator update": "discriminator update",
    "codec: adversarial terms": "adversarial terms, forward",
    "codec: backward": "generator, backward",
    "codec: generator update": "generator update",
}


def stages(run: Path) -> dict[str, dict[str, Any]]:
    """Seconds and peak memory (1e9 bytes) of every finished stage under a run folder."""
    found = {}
    for path in sorted(run.glob("*/stage_*.json")):
        marker = json.loads(path.read_text())
        if marker["finished"] and "superseded" not in path.parent.name:
            name = "sweep" if path.parent.name == "report" else path.parent.name
            measured = {"seconds": round(marker["seconds"], 1), "peak_gb": round(marker["peak_gb"], 2)}
            # One run each: no interval.
            found[name] = {key: {"value": v, "low": None, "high": None, "num": 1} for key, v in measured.items()}
    return found


def digit_errors(curve: Path, judge: str = "whisper", selector: str = "pocketsphinx") -> dict[str, dict[str, Any]]:
    """Return {prompt set: {n1, best_of_16}}: 1 - score of one selector under one judge, with the interval reversed."""
    errors: dict[str, dict[str, Any]] = {}
    with curve.open() as stream:
        for row in csv.DictReader(stream):
            n = int(row["n"])
            if row["selector"] == selector and row["judge"] == judge and n in (1, NUM_CANDIDATES):
                value, low, high = (1 - float(row[name]) for name in ("score", "high", "low"))
                name = "n1" if n == 1 else f"best_of_{n}"
                point = {"value": value, "low": low, "high": high, "num": int(row["num_prompts"])}
                errors.setdefault(row["prompt_set"], {})[name] = point
    return errors


def step_profile(report: Path) -> dict[str, float]:
    """Milliseconds per training step of each part, from the text that Lightning's SimpleProfiler writes."""
    calls, seconds = {}, {}
    for line in report.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) >= 4 and cells[2].isdigit():
            calls[cells[0]], seconds[cells[0]] = int(cells[2]), float(cells[3])
    parts = CODEC_PARTS if "codec: generator" in seconds else LM_PARTS
    num_steps = calls["run_training_batch"]
    return {parts[name]: round(1000 * seconds[name] / num_steps, 1) for name in parts if name in seconds}


def gather(run: Path, results: Path, timed: Path | None = None) -> dict[str, Any]:
    """Collect all results; `timed` is the run whose seconds and memory are reported, if it is another one."""
    found: dict[str, Any] = {
        **date_and_machine(),
        "stages": stages(timed or run),
    }
    for name, folder in CODEC_RUNS.items():
        evaluation = (run if folder == "demo" else results / folder) / "codec_evaluation"
        if (evaluation / "codec_evaluation.json").is_file():
            systems = codec_table(evaluation, (*CODEC_METRICS, "bit_rate"))
            found[name] = systems.pop("codec")
            if name == "codec":
                found["comparisons"] = systems
            else:
                found[name]["stages"] = stages(results / folder)
    found["profiles_ms"] = {
        path.stem.removeprefix("fit-"): step_profile(path) for path in sorted((results / "profile").glob("fit-*.txt"))
    }
    demo_errors = digit_errors(run / "report" / "curve.csv")
    more = results / "sweep_128" / "report" / "curve.csv"
    errors = digit_errors(more) if more.is_file() else demo_errors
    found["lm"] = {"digit_error": errors["4 digits"], "digit_error_6_to_8": errors["6 to 8 digits"]}
    found["lm_in_the_demo"] = {
        "digit_error": demo_errors["4 digits"],
        "digit_error_6_to_8": demo_errors["6 to 8 digits"],
    }
    return found


def markdown(found: dict[str, Any]) -> str:
    """Format the results as tables."""
    systems = {name: found[name] for name in CODEC_RUNS if name in found} | found.get("comparisons", {})
    rows = []
    for name, row in systems.items():
        cells = [cell(row[metric], 2 if metric.startswith("pesq") else 3) for metric in CODEC_METRICS]
        rows.append([name, f"{row['bit_rate']['value'] or 0:.0f}", *cells, row["wer"]["num"]])
    lines = table(["system", "bit/s", "WER", "STOI", "PESQ-NB", "PESQ-WB", "prompts"], rows)
    rows = [
        [f"{where}.{name}", cell(one := errors["n1"]), cell(errors[f"best_of_{NUM_CANDIDATES}"]), one["num"]]
        for where in ("lm", "lm_in_the_demo")
        for name, errors in found[where].items()
    ]
    lines += ["", *table(["strings", "error at n = 1", "best of 16", "prompts"], rows)]
    rows = [
        [name, f"{stage['seconds']['value']:.0f}", f"{stage['peak_gb']['value']:.2f}"]
        for name, stage in found["stages"].items()
    ]
    lines += ["", *table(["stage", "seconds", "peak memory, GB"], rows)]
    for name, parts in found["profiles_ms"].items():
        lines += ["", *table([name, "ms per step"], [[part, f"{value:.1f}"] for part, value in parts.items()])]
    return "\n".join(lines)


def draw(curve: Path, picture: Path, prompt_set: str = "4 digits", judge: str = "whisper") -> None:
    """Plot the error against n under one judge, as in the report."""
    from modules.report.figures import curve_figure
    from modules.search.analysis.expected_best_of_n import CurvePoint

    with curve.open() as stream:
        rows = [row for row in csv.DictReader(stream) if (row["prompt_set"], row["judge"]) == (prompt_set, judge)]
    kinds = {field.name: field.type for field in fields(CurvePoint)}
    points = [CurvePoint(**{name: kinds[name](row[name]) for name in kinds if name in row}) for row in rows]
    figure = curve_figure(points, as_error=True)
    figure.savefig(picture, dpi=110, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--results", type=Path, default=Path("runs/results"))
    parser.add_argument("--output", type=Path, default=Path("studies/demo/results.json"))
    parser.add_argument("--timed", type=Path, default=None, help="a run of the demo on a quiet machine")
    arguments = parser.parse_args()
    found = gather(arguments.run, arguments.results, arguments.timed)
    write_json(found, arguments.output)
    more = arguments.results / "sweep_128" / "report" / "curve.csv"
    draw(more if more.is_file() else arguments.run / "report" / "curve.csv", arguments.output.with_suffix(".png"))
    print(markdown(found))
    print(f"\nwritten to {arguments.output}")


if __name__ == "__main__":
    main()
