"""Collects a finished run of scripts/open_voice.sh as one cell of studies/voice/results.json, and fills README.md.

    python -m studies.voice.collect --cell NAME [--root FOLDER] [--minutes '{"prepare": 9}'] [--note TEXT]
    python -m studies.voice.collect                      renders README.md from results.json

Word errors of a sentence count at most as its number of words; rates are sums of errors over sums of words. The excess
is that of a system over the teacher on the same sentences; intervals resample sentences (modules/statistics.py: 95 %,
2,000 resamples, seed 0). N = 1 is the mean of all candidates; a best of n is the expected one under its selector. A
candidate that never ended, or that the judge could not score, has only errors.
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.shards.shards import ShardIndex
from modules.checkpoint_files import read_checkpoint
from modules.provenance import package_versions
from modules.statistics import UNBOUNDED, Ends, Resamples, difference_ends, ratio_intervals
from studies.collected import cell, date_and_machine, filled, table, write_json

HERE = Path(__file__).parent
JUDGE, TEACHER, ONE, ORACLE = "whisper", "teacher", "N = 1", "oracle"
SELECTORS = {
    "text_probability": "best of {n} by text probability",
    "alignment": "best of {n} by alignment",
    "likelihood": "best of {n} by likelihood",
    JUDGE: ORACLE,
}
STAGES = ("codec", "codec_evaluation", "tokens", "lm", "report")
SCALARS = {"loss": "val/loss", "bits_per_second": "val/bits_per_second_of_audio_all_tokens"}
RATE: Ends = (0.0, 1.0)

Errors = dict[str, dict[str, float]]  # system -> sentence -> errors


def ratio(numerators_U: np.ndarray, denominators_U: np.ndarray, ends: Ends = RATE) -> dict[str, float]:
    """Ratio of two sums over sentences, with its interval."""
    resamples = Resamples.draw(len(denominators_U), seed=0)
    ((low, high),) = ratio_intervals(numerators_U[None], denominators_U, resamples, ends).tolist()
    value = float(numerators_U.sum() / denominators_U.sum())
    return {"value": value, "low": low, "high": high, "num": len(denominators_U)}


def codec_errors(folder: Path) -> tuple[dict[str, int], Errors]:
    """Number of words of each sentence, and the errors of the teacher and the codec."""
    words: dict[str, int] = {}
    errors: Errors = defaultdict(dict)
    with (folder / "codec_utterances.csv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            number = int(float(row["num_words"]))
            words[row["key"]] = number
            name = "codec" if row["system"] == "codec" else TEACHER
            errors[name][row["key"]] = min(float(row["num_errors"]), number)
    return words, errors


def chosen(scores_N: np.ndarray, errors_N: np.ndarray) -> float:
    """Expected errors of the candidate with the highest score; ties share, and NaN ranks last."""
    scores_N = np.nan_to_num(scores_N, nan=-np.inf)
    return float(errors_N[scores_N == scores_N.max()].mean())


def spoken_errors(
    path: Path, words: dict[str, int], selectors: dict[str, str] = SELECTORS
) -> tuple[Errors, dict[str, int]]:
    """Expected errors of N = 1 and of each selector, and counts of candidates. Raises ValueError for other sentences
    than those of the teacher."""
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    with path.open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            groups[row["prompt_key"]].append(row)
    if groups.keys() != words.keys():
        different = sorted(groups.keys() ^ words.keys())
        raise ValueError(f"Expected the sentences of the codec's evaluation, but got others: {different[:5]}.")
    errors: Errors = defaultdict(dict)
    counts = {"num_candidates": len(next(iter(groups.values()))), "num_never_ended": 0, "num_unjudged": 0}
    for key, rows in groups.items():
        judged_N = np.array([float(row[JUDGE] or "nan") for row in rows])
        ended_N = np.array([row["stopped"] == "1" for row in rows])
        counts["num_never_ended"] += int((~ended_N).sum())
        counts["num_unjudged"] += int((np.isnan(judged_N) & ended_N).sum())
        errors_N = np.where(ended_N, 1 - np.nan_to_num(judged_N), 1.0) * words[key]
        errors[ONE][key] = float(errors_N.mean())
        for name, label in selectors.items():
            if name == "text_probability" and name not in rows[0]:  # of a run before this selector
                continue
            scores_N = np.array([float(row[name] or "nan") for row in rows])
            scores_N[~ended_N] = np.nan
            errors[label.format(n=len(rows))][key] = chosen(scores_N, errors_N)
    return errors, counts


def in_order(words: dict[str, int], errors: Errors) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Numbers of words, and errors of each system, of the sentences in one order."""
    keys = sorted(words)
    arrays = {name: np.array([own[key] for key in keys]) for name, own in errors.items()}
    return np.array([words[key] for key in keys], dtype=float), arrays


def systems(words: dict[str, int], errors: Errors) -> dict[str, dict[str, Any]]:
    """Word error of each system, its excess over the teacher, and its word error where the teacher has none."""
    words_U, found = in_order(words, errors)
    clean_U = found[TEACHER] == 0
    return {
        name: {
            "wer": ratio(own_U, words_U),
            "excess": ratio(own_U - found[TEACHER], words_U, difference_ends(RATE)),
            "wer_clean": ratio(own_U[clean_U], words_U[clean_U]),
        }
        for name, own_U in found.items()
    }


def gains(words: dict[str, int], errors: Errors) -> dict[str, dict[str, float]]:
    """Share of the oracle's gain over N = 1 that each selector has."""
    _, found = in_order(words, errors)
    most_U = found[ONE] - found[ORACLE]
    if not most_U.any():
        return {}
    return {name: ratio(found[ONE] - own_U, most_U, UNBOUNDED) for name, own_U in found.items() if "best of" in name}


def last_values(run: Path) -> dict[str, Any]:
    """Updates of a training, and the loss and bits per second of its last validation."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    points = {name: events.Scalars(tag)[-1] for name, tag in SCALARS.items()}
    num_updates = read_checkpoint(run / "checkpoints/last.ckpt", "a checkpoint of LMModule")["global_step"]
    return {"num_updates": num_updates, **{name: point.value for name, point in points.items()}}


def measured(root: Path, minutes: dict[str, float], note: str) -> dict[str, Any]:
    """One cell, of the run in `root`. `minutes`: of stages without a marker, such as prepare, or in place of it."""
    run = root / "runs/open_voice"
    words, errors = codec_errors(run / "codec_evaluation")
    of_sweep, counts = spoken_errors(run / "report/candidates.csv", words)
    errors |= of_sweep
    tokens = ShardIndex.load(run / "tokens/train", "tokens")
    markers = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in run.glob("*/stage_*.json")}
    minutes = {name: markers[name]["seconds"] / 60 for name in STAGES if name in markers} | minutes
    summary = json.loads((run / "report/summary.json").read_text(encoding="utf-8"))
    codec = markers["codec"]["config"]["model"]["init_args"]
    return {
        **date_and_machine(),
        "versions": package_versions(),
        "note": note,
        "minutes": minutes,
        "hours_of_speech": float(tokens.lengths.sum()) / tokens.header["frame_rate"] / 3600,
        "num_sentences": len(tokens),
        "num_codes": int(tokens.lengths.sum()),
        "has_classifier": codec.get("phoneme_classifier") is not None,
        "lm": last_values(run / "lm"),
        "sweep": summary["description"],
        **counts,
        "systems": systems(words, errors),
        "oracle_gain_shares": gains(words, errors),
    }


def cells_table(cells: dict[str, Any]) -> list[str]:
    rows = []
    for name, one in cells.items():
        for place, (system, row) in enumerate(one.get("systems", {}).items()):
            shares = cell(one["oracle_gain_shares"].get(system), 2)
            rates = [cell(row[measure]) for measure in ("wer", "excess", "wer_clean")]
            rows.append(["" if place else name, system, *rates, shares])
        if "systems" not in one:
            rows.append([name, "not measured yet", "", "", "", ""])
    headings = ["", "system", "WER", "excess over the teacher", "WER where the teacher has no error"]
    return table([*headings, "share of the oracle's gain"], rows)


def runs_table(cells: dict[str, Any]) -> list[str]:
    rows = []
    for name, one in cells.items():
        if "systems" not in one:
            rows.append([name, *("" for _ in range(11))])
            continue
        times = ", ".join(f"{stage} {minutes:.0f}" for stage, minutes in one["minutes"].items())
        lm, number = one["lm"], f"{one['num_sentences']:,}"
        sizes = [f"{one['hours_of_speech']:.1f}", number, f"{one['num_codes']:,}", f"{lm['num_updates']:,}"]
        held_out = [f"{lm['loss']:.3f}", f"{lm['bits_per_second']:.0f}"]
        words = "those of the text" if one["sweep"]["sampling"].get("force_words") else "free"
        classifier = "yes" if one.get("has_classifier") else "no"
        rows.append([name, one["date"], *sizes, times, *held_out, classifier, words, one["num_never_ended"]])
    headings = [
        "",
        "date",
        "hours of speech",
        "sentences",
        "codes",
        "updates",
        "minutes",
        "loss of the last validation",
        "bit/s",
        "classifier",
        "words",
    ]
    return table([*headings, "never ended"], rows)


def render(found: dict[str, Any], page: str) -> str:
    """The page with its tables filled."""
    notes = [f"- {name}: {one['note']}" for name, one in found["cells"].items() if one.get("note")]
    page = filled(page, "runs", "\n".join([*runs_table(found["cells"]), *([""] if notes else []), *notes]))
    return filled(page, "word errors", "\n".join(cells_table(found["cells"])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", help="name of the run, such as 3 hours")
    parser.add_argument("--root", type=Path, default=Path(), help="folder with runs/open_voice")
    parser.add_argument(
        "--minutes", type=json.loads, default={}, help="JSON: minutes of stages without a marker, or in its place"
    )
    parser.add_argument("--note", default="", help="shown below the table")
    arguments = parser.parse_args()
    results, page = HERE / "results.json", HERE / "README.md"
    found = json.loads(results.read_text(encoding="utf-8"))
    if arguments.cell:
        found["cells"][arguments.cell] = measured(arguments.root, arguments.minutes, arguments.note)
        write_json(found, results)
    page.write_text(render(found, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
