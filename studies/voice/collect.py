"""Collects a finished run of scripts/open_voice.sh as one cell of studies/voice/results.json, and fills README.md.

    python -m studies.voice.collect --cell NAME --hours 2 [--root FOLDER]
    python -m studies.voice.collect                      renders README.md from results.json

Word errors of a sentence count at most as its number of words; rates are sums of errors over sums of words. The excess
is that of a system over the teacher on the same sentences; intervals resample sentences (modules/statistics.py: 95 %,
2,000 resamples, seed 0). N = 1 is the mean of all candidates; a best of n is the expected one under its selector.
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.shards.shards import ShardIndex
from modules.provenance import package_versions
from modules.statistics import Resamples, difference_ends, ratio_intervals
from studies.collected import cell, date_and_machine, filled, table, write_json

HERE = Path(__file__).parent
JUDGE, ONE, ORACLE = "whisper", "N = 1", "oracle"
SELECTORS = {"alignment": "best of {n} by alignment", "likelihood": "best of {n} by likelihood", JUDGE: "oracle"}
STAGES = ("codec", "codec_evaluation", "tokens", "lm", "report")


def rate(errors_U: np.ndarray, words_U: np.ndarray, is_difference: bool = False) -> dict[str, float]:
    """Sum of errors over sum of words, with its interval."""
    ends = difference_ends((0.0, 1.0)) if is_difference else (0.0, 1.0)
    ((low, high),) = ratio_intervals(errors_U[None], words_U, Resamples.draw(len(words_U), seed=0), ends).tolist()
    return {"value": float(errors_U.sum() / words_U.sum()), "low": low, "high": high, "num": len(words_U)}


def codec_errors(folder: Path) -> tuple[dict[str, int], dict[str, dict[str, float]]]:
    """Number of words of each sentence, and system -> sentence -> errors, of the teacher and the codec."""
    words: dict[str, int] = {}
    errors: dict[str, dict[str, float]] = defaultdict(dict)
    with (folder / "codec_utterances.csv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            number = int(float(row["num_words"]))
            words[row["key"]] = number
            name = "codec" if row["system"] == "codec" else "teacher"
            errors[name][row["key"]] = min(float(row["num_errors"]), number)
    return words, errors


def chosen(scores_N: np.ndarray, errors_N: np.ndarray) -> float:
    """Expected errors of the candidate with the highest score; ties share, and NaN ranks last."""
    scores_N = np.nan_to_num(scores_N, nan=-np.inf)
    return float(errors_N[scores_N == scores_N.max()].mean())


def spoken_errors(path: Path, words: dict[str, int]) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """System -> sentence -> expected errors, of the sweep's candidates, and counts of candidates."""
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    with path.open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            groups[row["prompt_key"]].append(row)
    errors: dict[str, dict[str, float]] = defaultdict(dict)
    counts = {"num_candidates": len(next(iter(groups.values()))), "num_never_ended": 0, "num_unjudged": 0}
    for key, rows in groups.items():
        judged_N = np.array([float(row[JUDGE] or "nan") for row in rows])
        ended_N = np.array([row["stopped"] == "1" for row in rows])
        counts["num_never_ended"] += int((~ended_N).sum())
        counts["num_unjudged"] += int(np.isnan(judged_N).sum())
        errors_N = np.where(ended_N, 1 - np.nan_to_num(judged_N), 1.0) * words[key]
        errors[ONE][key] = float(errors_N.mean())
        for name, label in SELECTORS.items():
            scores_N = np.array([float(row.get(name) or "nan") for row in rows])
            scores_N[~ended_N] = -np.inf
            errors[label.format(n=len(rows))][key] = chosen(scores_N, errors_N)
    return errors, counts


def systems(words: dict[str, int], errors: dict[str, dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Word error of each system, its excess over the teacher, and its word error where the teacher is heard right."""
    keys = sorted(words)
    words_U = np.array([words[key] for key in keys], dtype=float)
    teacher_U = np.array([errors["teacher"][key] for key in keys])
    clean_U = teacher_U == 0
    found = {}
    for name, own in errors.items():
        own_U = np.array([own[key] for key in keys])
        found[name] = {
            "wer": rate(own_U, words_U),
            "excess": rate(own_U - teacher_U, words_U, is_difference=True),
            "wer_clean": rate(own_U[clean_U], words_U[clean_U]),
        }
    return found


def gains(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Share of the oracle's gain over N = 1 that each selector has."""
    first, best = found[ONE]["wer"]["value"], found[ORACLE]["wer"]["value"]
    return {
        name: (first - one["wer"]["value"]) / (first - best)
        for name, one in found.items()
        if name.startswith("best of") and first > best
    }


def last_scalars(folder: Path, names: tuple[str, ...]) -> dict[str, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {name: events.Scalars(name)[-1].value for name in names if name in events.Tags()["scalars"]}


def measured(root: Path, hours: float) -> dict[str, Any]:
    """One cell, of the run in `root`."""
    run = root / "runs/open_voice"
    words, errors = codec_errors(run / "codec_evaluation")
    of_sweep, counts = spoken_errors(run / "report/candidates.csv", words)
    found = systems(words, errors | of_sweep)
    tokens = ShardIndex.load(run / "tokens/train", "tokens")
    markers = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in run.glob("*/stage_*.json")}
    sweep = json.loads((run / "report/sweep.json").read_text()) if (run / "report/sweep.json").is_file() else {}
    return {
        **date_and_machine(),
        "versions": package_versions(),
        "budget_hours": hours,
        "hours_of_speech": float(tokens.lengths.sum()) / tokens.header["frame_rate"] / 3600,
        "num_sentences": len(tokens),
        "num_codes": int(tokens.lengths.sum()),
        "minutes": {name: markers[name]["seconds"] / 60 for name in STAGES if name in markers},
        "last": last_scalars(run / "lm", ("train/loss", "val/loss", "val/bits_per_second_of_audio_all_tokens")),
        "judge": sweep.get("judges", JUDGE),
        **counts,
        "systems": found,
        "oracle_gain_shares": gains(found),
    }


def cells_table(cells: dict[str, Any]) -> list[str]:
    rows = []
    for name, one in cells.items():
        for system, row in one["systems"].items():
            share = one["oracle_gain_shares"].get(system)
            gain = "" if share is None else f"{share:.0%}"
            rows.append([name, system, cell(row["wer"]), cell(row["excess"]), cell(row["wer_clean"]), gain])
            name = ""
    headings = [
        "",
        "system",
        "WER",
        "excess over the teacher",
        "WER where the teacher is heard right",
        "of the oracle's gain",
    ]
    return table(headings, rows)


def runs_table(cells: dict[str, Any]) -> list[str]:
    rows = []
    for name, one in cells.items():
        times = ", ".join(f"{stage} {minutes:.0f}" for stage, minutes in one["minutes"].items())
        last = one["last"]
        bits = last.get("val/bits_per_second_of_audio_all_tokens")
        rows.append(
            [name, one["date"], f"{one['hours_of_speech']:.1f}", f"{one['num_sentences']:,}", f"{one['num_codes']:,}",
             times, f"{last.get('val/loss', float('nan')):.3f}", f"{bits:.0f}" if bits else "–",
             one["num_candidates"], one["num_never_ended"]]
        )  # fmt: skip
    headings = [
        "",
        "date",
        "hours of speech",
        "sentences",
        "codes",
        "minutes",
        "held-out loss",
        "bit/s",
        "N",
        "never ended",
    ]
    return table(headings, rows)


def render(found: dict[str, Any], page: str) -> str:
    """The page with its tables filled."""
    page = filled(page, "runs", "\n".join(runs_table(found["cells"])))
    return filled(page, "word errors", "\n".join(cells_table(found["cells"])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", help="name of the run, such as 3 hours")
    parser.add_argument("--hours", type=float, default=3.0, help="its budget")
    parser.add_argument("--root", type=Path, default=Path(), help="folder with runs/open_voice")
    arguments = parser.parse_args()
    results = HERE / "results.json"
    found = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {"cells": {}}
    if arguments.cell:
        found["cells"][arguments.cell] = measured(arguments.root, arguments.hours)
        write_json(found, results)
    page = HERE / "README.md"
    page.write_text(render(found, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
