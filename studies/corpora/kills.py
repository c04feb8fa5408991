"""kill -9 of `python run.py prepare` and `predict` at random moments, resumed by the same command until it ends.

    python -m studies.corpora.kills prepare [--num_kills 20] [--seed 0] [--longest 1.5]
    python -m studies.corpora.kills tokenise

The whole process group is killed up to `--longest` seconds after the job has written to its folder of state, every
fourth time anything, else of a unit of work. A run that ends before its kill is compared with an uninterrupted one,
file by file; then another begins, until so many kills have been made. Writes kills_WHAT.json beside this file.

`lost_in_work` counts the units with a tar under a temporary name. Tokens are written when their shard is complete: a
kill loses the shard in work of each device, of which the folder holds nothing.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studies.collected import date_and_machine, write_json
from studies.corpora.prompts import (
    PATIENCE,
    Command,
    digests,
    prepare_command,
    run_command,
    tokenise_command,
    write_tars,
)
from tests.toys.killed_runs import import_before_forks

HERE = Path(__file__).parent


def states(folder: Path) -> list[Path]:
    """The folders of state of a job in work: one of a preparation, one for each split of tokens."""
    return [path for path in (folder / ".preparing", *folder.glob("*/unfinished")) if path.is_dir()]


def finished(folder: Path) -> set[Path]:
    """Results of units that are on the disk and not merged."""
    return {path for state in states(folder) for path in (state / "units").glob("*.json")}


def is_merged(result: Path) -> bool:
    """Whether the job of a unit has been merged since: an index of tokens, or the marker of a preparation."""
    folder = result.parents[2]
    return (folder / "index.json").is_file() or (folder / "prepared.json").is_file()


def begun(folder: Path) -> set[Path]:
    """Tars of units under their temporary names: UNIT-SPLIT.tar.MACHINE.PROCESS, or UNIT.tar... of tokens."""
    return {path for state in states(folder) for path in (state / "temporary").glob("*")}


def has_begun(folder: Path, since: float, with_units: bool) -> bool:
    """Whether the job has written anything below the folders of state since then; `with_units`: of a unit."""
    patterns = ("temporary/*", "units/*") if with_units else ("*", "*/*")
    for state in states(folder):
        for path in [one for pattern in patterns for one in state.glob(pattern)]:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime > since:
                    return True
    return False


def kill_once(words: Sequence[str], folder: Path, log: Path, delay: float, with_units: bool) -> dict[str, Any] | None:
    """Run the command and kill it `delay` seconds after its work has begun. None if it ended before."""
    since, before, left = time.time(), finished(folder), begun(folder)
    command = Command(words, log)
    while not command.has_ended() and not has_begun(folder, since, with_units):
        if time.time() - since > PATIENCE:
            raise RuntimeError(f"Expected the work to begin within {PATIENCE} s, but it did not. {log} says why.")
        time.sleep(0.02)
    if command.ends_within(delay):
        command.check()
        return None
    os.killpg(command.pid, signal.SIGKILL)
    command.ends_within(PATIENCE)
    time.sleep(0.2)  # until the group's other processes are gone
    after = finished(folder)
    lost = {unit for unit in before - after if not is_merged(unit)}
    if lost:
        raise AssertionError(f"Expected finished units to stay, but got {sorted(lost)} lost.")
    moment = {"after": "the first write of a unit" if with_units else "the first write", "seconds": round(delay, 3)}
    in_work = {path.name.split("-")[0].split(".")[0] for path in begun(folder) - left}
    return {**moment, "finished": len(after), "gained": len(after - before), "lost_in_work": len(in_work)}


def experiment(given: argparse.Namespace, home: Path) -> dict[str, Any]:
    is_preparation = given.what == "prepare"
    import_before_forks()
    tars = home / "corpus"
    write_tars(tars, given.num_tars, given.recordings_per_tar)
    if is_preparation:
        options = ["--num_processes", str(given.num_processes)]

        def command(folder: Path) -> list[str]:
            return prepare_command(tars, folder, *options)

    else:
        shards = home / "shards"
        run_command(prepare_command(tars, shards, sample_rate=16_000), home / "shards.log")

        def command(folder: Path) -> list[str]:
            return tokenise_command(shards, folder)

    run_command(command(home / "whole/out"), home / "whole.log")
    expected = digests(home / "whole/out")
    chance, kills, ends = random.Random(given.seed), [], 0
    while len(kills) < given.num_kills or ends == 0 or kills[-1]["run"] == ends:
        folder = home / f"killed_{ends}/out"
        folder.parent.mkdir(exist_ok=True)
        enough = len(kills) >= given.num_kills
        delay = PATIENCE if enough else chance.uniform(0, given.longest)
        killed = kill_once(command(folder), folder, home / "killed.log", delay, len(kills) % 4 > 0)
        if killed is not None:
            kills.append({"run": ends, **killed})
            print(json.dumps(kills[-1]), flush=True)
            continue
        found = digests(folder)
        assert found == expected, sorted(set(found.items()) ^ set(expected.items()))
        print(f"run {ends} ended; its {len(found)} files equal those of the uninterrupted run", flush=True)
        ends += 1
    return {
        "units": given.num_tars if is_preparation else len(list(shards.glob("*/*.tar"))),
        "recordings": given.num_tars * given.recordings_per_tar,
        "processes": given.num_processes if is_preparation else 1,
        "kills": kills,
        "runs_that_ended": ends,
        "files_compared": len(expected),
        "byte_identical": True,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prepare", "tokenise"])
    parser.add_argument("--num_kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=1.5)
    parser.add_argument("--num_tars", type=int, default=120)
    parser.add_argument("--recordings_per_tar", type=int, default=20)
    parser.add_argument("--num_processes", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        found = experiment(given, Path(home))
    seconds = {"seed": given.seed, "longest_seconds": given.longest}
    write_json(found | seconds | date_and_machine(), HERE / f"kills_{given.what}.json")


if __name__ == "__main__":
    main()
