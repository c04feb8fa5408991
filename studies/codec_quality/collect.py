"""Collects the results of studies/codec_quality/run.sh: studies/codec_quality/results.json and .png, and the tables of
README.md.

    python -m studies.codec_quality.collect [--runs runs/codec_quality] [--output FILE.json]

Differences between two training configurations are paired: over the same recordings, seeds averaged first, with an
interval over recordings (modules/statistics.py: 95 %, 2,000 resamples, seed 0). Nothing else is computed here.
Without runs, the tables are rendered from the json.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modules.statistics import Ends, Resamples, difference_ends, ratio_intervals
from studies.collected import cell, codec_table, date_and_machine, table, write_json, write_page

METRICS = ("wer", "stoi", "pesq_nb", "pesq_wb", "speaker", "naturalness_ovrl", "bit_rate")
PAIRED = ("wer", "stoi", "pesq_wb", "speaker", "naturalness_ovrl")
DIGITS = {"wer": 3, "stoi": 3, "speaker": 3, "bit_rate": 0}
# Lowest and highest value of an utterance (STOI: Taal et al. 2011; PESQ: ITU-T P.862.1 and 2).
ENDS: dict[str, Ends] = {
    "wer": (0.0, 1.0), "stoi": (0.0, 1.0), "pesq_nb": (1.02, 4.55), "pesq_wb": (1.04, 4.64),
    "speaker": (-1.0, 1.0), "naturalness_ovrl": (1.0, 5.0),
}  # fmt: skip
SEEDS = (0, 1)
ARMS = ("no_discriminators", "simvq", "whisper_states")
ABLATED = ("wer", "stoi", "pesq_wb")
SYSTEMS = {
    "recording": "recording",
    "codec": "**ours**",
    "Opus 6k": "Opus, 6 kbit/s",
    "Codec2 3200": "Codec2 3200",
    "Codec2 1300": "Codec2 1300",
    "Codec2 700C": "Codec2 700C",
}
# name of a row, name of its difference, updates of run.sh
ARM_NAMES = {
    "base": ("base", "", "1,760 (704)"),
    "no_discriminators": ("without discriminators", "without discriminators", "2,240 (0)"),
    "simvq": ("SimVQ in place of FSQ", "SimVQ", "1,760 (704)"),
    "whisper_states": ("with a semantic path", "semantic path", "1,580 (632)"),
}


def utterances(folder: Path, system: str = "codec") -> dict[str, dict[str, float]]:
    """Return key -> metric -> value. `wer` is the pair (errors, words), because its corpus mean is a ratio of sums."""
    with (folder / "codec_utterances.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["system"] == system]
    return {row["key"]: {name: float(row[name]) for name in row if name not in TEXTS} for row in rows}


TEXTS = ("system", "key", "reference", "hypothesis")


def paired_difference(
    ours: list[dict[str, dict[str, float]]], base: list[dict[str, dict[str, float]]], metric: str
) -> dict[str, float]:
    """Ours minus base, one table of utterances per seed: {value, low, high, num}, of utterances that all runs have."""
    keys = sorted(set.intersection(*(set(run) for run in ours + base)))
    if metric != "wer":  # NaN: the metric could not be computed
        keys = [key for key in keys if not any(np.isnan(run[key][metric]) for run in ours + base)]

    def mean_over_seeds(runs: list[dict[str, dict[str, float]]], name: str) -> np.ndarray:
        return np.mean([[run[key][name] for key in keys] for run in runs], axis=0)

    if metric == "wer":
        weights = mean_over_seeds(base, "num_words")
        difference = mean_over_seeds(ours, "num_errors") - mean_over_seeds(base, "num_errors")
    else:
        weights = np.ones(len(keys))
        difference = mean_over_seeds(ours, metric) - mean_over_seeds(base, metric)
    resamples = Resamples.draw(len(keys), seed=0)
    ((low, high),) = ratio_intervals(difference[None], weights, resamples, difference_ends(ENDS[metric])).tolist()
    return {"value": float(difference.sum() / weights.sum()), "low": low, "high": high, "num": len(keys)}


def gather(runs: Path) -> dict[str, Any]:
    """Collect all results; parts whose runs do not exist are omitted."""
    voices = {folder.name: folder for folder in sorted((runs / "five_voices").glob("*"))}
    voices["en, trained on the other four"] = runs / "four_voices" / "evaluation"
    found: dict[str, Any] = {
        **date_and_machine(),
        "voices": {
            name: codec_table(folder, METRICS)
            for name, folder in voices.items()
            if (folder / "codec_evaluation.json").is_file()
        },
        "curve": {
            int(folder.name): codec_table(folder, METRICS)["codec"]
            for folder in sorted((runs / "five_voices" / "curve").glob("*"))
            if (folder / "codec_evaluation.json").is_file()
        },
        "ablation": {},
        "differences": {},
    }
    folders = {arm: [runs / arm / f"seed{seed}" / "evaluation" for seed in SEEDS] for arm in ("base", *ARMS)}
    done = {arm for arm, some in folders.items() if all((one / "codec_evaluation.json").is_file() for one in some)}
    for arm in sorted(done, key=["base", *ARMS].index):
        found["ablation"][arm] = {f"seed {seed}": codec_table(folders[arm][seed], METRICS)["codec"] for seed in SEEDS}
        if arm != "base" and "base" in done:
            ours, base = ([utterances(folder) for folder in folders[name]] for name in (arm, "base"))
            present = [name for name in PAIRED if name == "wer" or name in next(iter(base[0].values()))]
            found["differences"][arm] = {metric: paired_difference(ours, base, metric) for metric in present}
    return found


def cells(row: dict[str, Any], metrics: Sequence[str]) -> list[str]:
    """A cell for each metric; a recording's value of a metric that compares with itself has no interval."""
    shown = []
    for metric in metrics:
        point = row.get(metric)
        own = point is not None and point["high"] - point["low"] < 1e-6 and metric != "wer"
        full = cell(point, DIGITS.get(metric, 2))
        shown.append(full.split(" ")[0].replace("1.000", "1") if own or metric == "bit_rate" else full)
    return shown


def english_table(found: dict[str, Any]) -> list[str]:
    columns = ("bit_rate", "wer", "stoi", "pesq_wb", "speaker", "naturalness_ovrl")
    rows = [[name, *cells(found["voices"]["en"][system], columns)] for system, name in SYSTEMS.items()]
    return table(["English", "bit/s", "WER", "STOI", "PESQ-WB", "SIM", "DNSMOS"], rows)


def other_voices_table(found: dict[str, Any]) -> list[str]:
    rows = []
    for code, name in {"es": "Spanish", "fr": "French", "it": "Italian", "ru": "Russian"}.items():
        ours, opus = found["voices"][code]["codec"], found["voices"][code]["Opus 6k"]
        pairs = [cells(row, [metric])[0] for metric in ("stoi", "pesq_wb") for row in (ours, opus)]
        rows.append([name, *pairs])
    return table(["", "STOI ours", "STOI Opus 6k", "PESQ-WB ours", "PESQ-WB Opus 6k"], rows)


def curve_table(found: dict[str, Any]) -> list[str]:
    rows = [[f"{int(step):,}", *cells(row, ABLATED)] for step, row in found["curve"].items()]
    return table(["updates", "WER", "STOI", "PESQ-WB"], rows)


def unseen_table(found: dict[str, Any]) -> list[str]:
    voices, columns = found["voices"], ("wer", "stoi", "pesq_wb", "speaker", "naturalness_ovrl")
    four, piper = voices["en, trained on the other four"], voices["piper"]
    opus = "the same recordings, Opus, 6 kbit/s"
    rows = [
        ("English, by a codec of the other four voices", four["codec"]),
        (opus, four["Opus 6k"]),
        ("a Piper voice (joe), by the codec of all five", piper["codec"]),
        (opus, piper["Opus 6k"]),
    ]
    lines = [[name, *cells(row, columns)] for name, row in rows]
    return table(["", "WER", "STOI", "PESQ-WB", "SIM", "DNSMOS"], lines)


def ablation_table(found: dict[str, Any]) -> list[str]:
    rows = []
    for arm, (name, _, updates) in ARM_NAMES.items():
        seeds = found["ablation"][arm].values()
        values = [", ".join(f"{one[metric]['value']:.{DIGITS.get(metric, 2)}f}" for one in seeds) for metric in ABLATED]
        rows.append([name, updates, *values])
    return table(["", "updates (with discriminators)", "WER, seeds 0 and 1", "STOI", "PESQ-WB"], rows)


def difference_table(found: dict[str, Any]) -> list[str]:
    rows = []
    for arm, row in found["differences"].items():
        points = [("+" if row[metric]["value"] >= 0 else "") + cells(row, [metric])[0] for metric in ABLATED]
        rows.append([ARM_NAMES[arm][1], *points])
    return table(["minus base", "WER", "STOI", "PESQ-WB"], rows)


TABLES = {
    "english": english_table,
    "other voices": other_voices_table,
    "curve": curve_table,
    "unseen": unseen_table,
    "ablation": ablation_table,
    "differences": difference_table,
}


def tables(folder: Path) -> dict[str, list[str]]:
    """The lines of each table of README.md, of results.json in `folder`."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {name: lines_of(found) for name, lines_of in TABLES.items()}


def draw(curve: dict[int, dict[str, Any]], picture: Path, reference: dict[str, Any] | None) -> None:
    """Plot word error, STOI and PESQ during training, with intervals; dashed: Opus at 6 kbit/s."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    for panel, (metric, title) in zip(
        figure.subplots(1, 3), (("wer", "WER"), ("stoi", "STOI"), ("pesq_wb", "PESQ-WB")), strict=True
    ):
        steps = sorted(curve)
        value, low, high = (np.array([curve[step][metric][key] for step in steps]) for key in ("value", "low", "high"))
        panel.errorbar(steps, value, [value - low, high - value], marker="o", capsize=3)
        if reference:
            panel.axhline(reference[metric]["value"], color="grey", linestyle="--", linewidth=1, label="Opus, 6 kbit/s")
            panel.legend(fontsize="small")
        panel.set(title=title, xlabel="updates")
    figure.savefig(picture, dpi=110, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/codec_quality"))
    parser.add_argument("--output", type=Path, default=Path("studies/codec_quality/results.json"))
    given = parser.parse_args()
    if given.runs.is_dir():
        found = gather(given.runs)
        write_json(found, given.output)
        if found["curve"]:
            draw(found["curve"], given.output.with_suffix(".png"), found["voices"].get("en", {}).get("Opus 6k"))
    write_page(given.output.parent, tables(given.output.parent))
    print(f"written to {given.output.parent}")


if __name__ == "__main__":
    main()
