"""Preparing a corpus: prepare_audio_shards against a plain loop with webdataset's ShardWriter, one process, in turns.

    python -m benchmarks.preparation [--num_files 400] [--rounds 5] [--json FILE]

Both read the same wav files at 22,050 Hz, resample them with soxr, encode FLAC and write tars of 1,000 samples with a
json each. Ours also lists, checks, measures and hashes every recording, finds duplicates, splits, and writes an index
that any number of processes can resume. The loop checks nothing. First the samples of both are compared.

`processes` are seconds of ours with 1, 2, ... processes of one thread, up to the cores of this machine.
"""

import argparse
import io
import json
import os
import shutil
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import webdataset

from benchmarks.scaffold import median_seconds, options, report
from datamodules.shards.preparation import prepare_audio_shards
from datamodules.shards.shards import ShardIndex, ShardReader
from datamodules.sources.folder import FolderSource
from tests.toys.codec_references import noise_items

RATE = 16_000
PUBLISHED_RATE = 22_050
SECONDS = (1.1, 10.1)  # the shortest and the longest recording of LJSpeech


def write_corpus(folder: Path, num_files: int) -> float:
    """LJSpeech's layout with noise of its lengths. Returns the seconds."""
    (folder / "wavs").mkdir(parents=True)
    seconds = np.random.default_rng(0).uniform(*SECONDS, num_files)
    for number, length in enumerate(seconds):
        samples_T = noise_items(round(length * PUBLISHED_RATE), seed=number)[0][0].numpy()
        soundfile.write(folder / f"wavs/LJ{number:05}.wav", samples_T, PUBLISHED_RATE)
    lines = (f"LJ{number:05}|Recording number {number} of them.|" for number in range(num_files))
    (folder / "metadata.csv").write_text("\n".join(lines))
    return float(seconds.sum())


def plain_loop(corpus: Path, folder: Path) -> None:
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "%06d.tar"), maxcount=1000, verbose=0) as writer:
        for line in (corpus / "metadata.csv").read_text().splitlines():
            key, text, _ = line.split("|")
            samples_T, rate = soundfile.read(corpus / "wavs" / f"{key}.wav", dtype="float32")
            stream = io.BytesIO()
            soundfile.write(stream, soxr.resample(samples_T, rate, RATE), RATE, format="FLAC")
            about = {"text": text, "duration": len(samples_T) / rate}
            writer.write({"__key__": key, "flac": stream.getvalue(), "json": json.dumps(about).encode()})


def check_equal(prepared: Path, looped: Path, num_files: int) -> None:
    """Raise AssertionError unless both hold the same samples."""
    by_key = {sample["__key__"]: sample["flac"] for sample in webdataset.WebDataset(
        [str(path) for path in sorted(looped.glob("*.tar"))], shardshuffle=False)}  # fmt: skip
    num_equal = 0
    for split in ("train", "held_out"):
        reader = ShardReader(ShardIndex.load(prepared / split, "audio"))
        for row in range(len(reader)):
            sample = reader.read(row)
            ours, theirs = (soundfile.read(io.BytesIO(one))[0] for one in (sample["flac"], by_key[sample["__key__"]]))
            num_equal += np.array_equal(ours, theirs)
    if num_equal != num_files:
        raise AssertionError(f"Expected {num_files} equal recordings, but got {num_equal}.")


def measure(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    corpus = folder / "corpus"
    seconds = write_corpus(corpus, given.num_files)
    source = FolderSource(corpus)

    def ours(target: Path, num_processes: int = 1) -> None:
        shutil.rmtree(target, ignore_errors=True)
        prepare_audio_shards([source], target, RATE, "flac", given.samples_per_unit, num_processes=num_processes)

    def loop() -> None:
        shutil.rmtree(folder / "loop", ignore_errors=True)
        plain_loop(corpus, folder / "loop")

    ours(folder / "ours")
    loop()
    check_equal(folder / "ours", folder / "loop", given.num_files)
    clock = time.process_time if given.clock == "cpu" else time.perf_counter
    medians = median_seconds({"ours": lambda: ours(folder / "ours"), "plain_loop": loop}, given.rounds, clock)
    numbers = sorted({1, *(2**power for power in range(1, 7) if 2**power <= len(os.sched_getaffinity(0)))})
    ways = {str(number): (lambda number=number: ours(folder / "many", number)) for number in numbers}
    processes = median_seconds(ways, given.rounds)
    return {
        "audio_hours": round(seconds / 3600, 3),
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "ours_over_plain_loop": round(medians["ours"] / medians["plain_loop"], 3),
        "times_real_time": round(seconds / medians["ours"]),
        "processes": {name: round(value, 3) for name, value in processes.items()},
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--num_files", type=int, default=400)
    parser.add_argument("--samples_per_unit", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="of the comparison with the loop")
    given = parser.parse_args()
    torch.set_num_threads(1)
    quiet = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(quiet), redirect_stderr(quiet):
        result = measure(given, Path(folder))
    report(
        result | {name: getattr(given, name) for name in ("num_files", "samples_per_unit", "rounds", "clock")},
        given.json,
    )


if __name__ == "__main__":
    main()
