"""One result, byte for byte, from any number of processes, shares and devices.

    python -m studies.corpora.processes

The same corpus is prepared by `python run.py prepare` with 1, 2 and 4 processes and in 3 shares, and tokenised by
`python run.py predict` with one device and with two (ddp). The sha256 is that of the paths and sha256 of all files.
Writes processes.json beside this file.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studies.collected import date_and_machine, write_json
from studies.corpora.prompts import ROOT, digest_of_all, digests, prepare_command, tokenise_command, write_tars

HERE = Path(__file__).parent
WAYS = {
    "1 process": [["--num_processes", "1"]],
    "2 processes": [["--num_processes", "2"]],
    "4 processes": [["--num_processes", "4"]],
    "3 shares": [["--num_processes", "1", "--share", f"{number}/3"] for number in (2, 3, 1)],
}
DEVICES = {
    "1 device": ["--trainer.accelerator", "cpu"],
    "2 devices": ["--trainer.devices", "2", "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp"],
}


def run(words: Sequence[str]) -> None:
    """Raises RuntimeError with its output if the command fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "run.py", *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Expected {' '.join(words)} to succeed, but got {done.returncode}: {done.stderr[-2000:]}")


def about(folder: Path) -> dict[str, Any]:
    return {"sha256": digest_of_all(folder), "files": len(digests(folder))}


def measure(given: argparse.Namespace, home: Path) -> dict[str, Any]:
    corpus = home / "corpus"
    write_tars(corpus, given.num_tars, given.recordings_per_tar)
    prepared, tokens = {}, {}
    for way, calls in WAYS.items():
        folder = home / way / "out"
        for options in calls:
            run(prepare_command(corpus, folder, *options, sample_rate=16_000))
        prepared[way] = about(folder)
        print(way, prepared[way], flush=True)
    for way, options in DEVICES.items():
        folder = home / way / "out"
        run(tokenise_command(home / "1 process/out", folder, *options))
        tokens[way] = about(folder)
        print(way, tokens[way], flush=True)
    for found in (prepared, tokens):
        if len({one["sha256"] for one in found.values()}) > 1:
            raise AssertionError(f"Expected equal bytes, but got {found}.")
    return {
        "units": given.num_tars,
        "recordings": given.num_tars * given.recordings_per_tar,
        "prepared": prepared,
        "tokens": tokens,
        "byte_identical": True,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_tars", type=int, default=24)
    parser.add_argument("--recordings_per_tar", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        found = measure(given, Path(home))
    write_json(found | date_and_machine(), HERE / "processes.json")


if __name__ == "__main__":
    main()
