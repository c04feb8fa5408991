"""Collects the runs of formats.sh in formats.json, and fills README.md's table of formats.

    python -m studies.voice.formats [ROOT]         without ROOT: renders the committed json

Word errors are of one sample of each of the 200 held-out sentences, counted as studies.voice.collect counts them; the
excess is over the teacher on the same sentences. A run that is not finished is left out.
"""

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.shards.shards import ShardIndex
from modules.provenance import package_versions
from modules.statistics import difference_ends
from studies.collected import cell, date_and_machine, filled, table, write_json
from studies.voice.collect import HERE, JUDGE, RATE, TEACHER, Errors, codec_errors, in_order, last_values, ratio

PAGE, RESULTS = HERE / "README.md", HERE / "formats.json"
# Runs of formats.sh: the name of a format, and the folder in runs/ of its codec and tokens.
FORMATS = {
    "words": ("word blocks, phonemes, 25 Hz", "open_voice"),
    "plain": ("text then codes, phonemes, 25 Hz", "open_voice"),
    "letters": ("word blocks, letters, 25 Hz", "open_voice"),
    "words50": ("word blocks, phonemes, 50 Hz", "open_voice_50"),
    "phonemes": ("word blocks, phonemes, 25 Hz, classifier", "open_voice_phonemes"),
}
CODECS = {"open_voice": "25 Hz", "open_voice_50": "50 Hz", "open_voice_phonemes": "25 Hz, classifier"}


def sample_errors(path: Path, words: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """{temperature: {sentence: errors}} of one sample each; one that never ended has only errors."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    with path.open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            score = float(row[JUDGE] or "nan") if row["stopped"] == "1" else 0.0
            key = row["prompt_key"]
            found[f"{float(row['temperature']):g}"][key] = (1 - np.nan_to_num(score)) * words[key]
    for temperature, errors in found.items():
        if errors.keys() != words.keys():
            raise ValueError(f"Expected {len(words)} sentences at temperature {temperature}, but got {len(errors)}.")
    return dict(found)


def rates(words: dict[str, int], errors: Errors) -> dict[str, dict[str, Any]]:
    """Word error of each system but the teacher, and its excess over the teacher."""
    words_U, arrays = in_order(words, errors)
    return {
        name: {"wer": ratio(own_U, words_U), "excess": ratio(own_U - arrays[TEACHER], words_U, difference_ends(RATE))}
        for name, own_U in arrays.items()
    }


def measured(root: Path) -> dict[str, Any]:
    """Codecs and language models of the runs in `root`."""
    runs = root / "runs"
    codecs, models = {}, {}
    for folder in CODECS:
        if not (runs / folder / "codec_evaluation").is_dir():
            continue
        words, errors = codec_errors(runs / folder / "codec_evaluation")
        tokens = ShardIndex.load(runs / folder / "tokens/train", "tokens")
        hours = float(tokens.lengths.sum()) / tokens.header["frame_rate"] / 3600
        codecs[folder] = {"systems": rates(words, errors), "num_codes": int(tokens.lengths.sum()), "hours": hours}
    for name, (_, folder) in FORMATS.items():
        if folder not in codecs:
            continue
        words, teacher = codec_errors(runs / folder / "codec_evaluation")
        for run in sorted((runs / "formats").glob(f"{name}_[0-9]*")):
            if not (run / "report/candidates.csv").is_file():
                continue
            samples = sample_errors(run / "report/candidates.csv", words)
            marker = json.loads((run / "lm/stage_fit.json").read_text(encoding="utf-8"))
            models[run.name] = {
                "minutes": marker["seconds"] / 60,
                **last_values(run / "lm"),
                "systems": {
                    at: rates(words, {TEACHER: teacher[TEACHER], at: errors})[at] for at, errors in samples.items()
                },
            }
    return {**date_and_machine(), "versions": package_versions(), "codecs": codecs, "models": models}


def rows(found: dict[str, Any]) -> list[list[str]]:
    lines = []
    for name, (title, _) in FORMATS.items():
        for run, one in found["models"].items():
            format_name, _, seed = run.rpartition("_")
            if format_name != name:
                continue
            samples = [cell(one["systems"][at][measure]) for at in ("0.1", "0.3") for measure in ("wer", "excess")]
            lines.append([title, seed, f"{one['num_updates']:,}", f"{one['bits_per_second']:.1f}", *samples])
    return lines


def render(found: dict[str, Any], page: str) -> str:
    """The page with its table of formats filled."""
    measures = [f"{measure}, T = {at}" for at in ("0.1", "0.3") for measure in ("WER", "excess")]
    of_codecs = []
    for folder, title in CODECS.items():
        if folder not in found["codecs"]:
            continue
        codec = found["codecs"][folder]["systems"]["codec"]
        of_codecs.append([title, cell(codec["wer"]), cell(codec["excess"])])
    lines = table(["format", "seed", "updates", "bit/s of audio, all tokens", *measures], rows(found))
    return filled(page, "formats", "\n".join([*lines, "", *table(["codec", "WER", "excess"], of_codecs)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?", help="folder with runs/formats")
    root = parser.parse_args().root
    found = measured(root) if root else json.loads(RESULTS.read_text(encoding="utf-8"))
    if root:
        write_json(found, RESULTS)
    PAGE.write_text(render(found, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
