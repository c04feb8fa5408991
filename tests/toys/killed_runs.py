"""Helpers for runs that are killed with SIGKILL and restarted by the same command, compared with an uninterrupted one.

A test file has a config with `FOLDER` in it and this module's Journal, and is also the script that makes the runs: it
imports everything once and forks each run, which calls `run.py` like a command.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
import zipfile
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from lightning.pytorch import Callback

ROOT = Path(__file__).resolve().parents[2]


class Journal(Callback):
    """Writes a line per micro-batch and rank immediately: attempt, step, "step" where it ended one and "part"
    elsewhere, its position in the epoch, the step's logged values, the batch's hash; at the end the weights'."""

    def __init__(self, path: str) -> None:
        self.path = path

    def _write(self, trainer, *words) -> None:
        with Path(f"{self.path}_{trainer.global_rank}").open("ab", buffering=0) as file:
            file.write((" ".join([os.environ["ATTEMPT"], *map(str, words)]) + "\n").encode())

    def on_train_start(self, trainer, pl_module) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        kind, self._step = ("part" if trainer.global_step == self._step else "step"), trainer.global_step
        metrics = trainer.callback_metrics.items() if kind == "step" else ()
        logged = {name: float(value).hex() for name, value in metrics if "train/" in name}
        fields = (getattr(batch, field.name) for field in dataclasses.fields(batch))
        about = (f"{name}={logged[name]}" for name in sorted(logged))
        self._write(trainer, trainer.global_step, kind, batch_idx, *about, digest(fields))
        time.sleep(0.002)  # so that kills between steps occur, too

    def on_train_end(self, trainer, pl_module) -> None:
        self._write(trainer, "end", digest(pl_module.state_dict().values()))


def digest(values: Iterable) -> str:
    """Hash of the tensors among `values`."""
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    return hashlib.sha256(b"".join(tensor.cpu().numpy().tobytes() for tensor in tensors)).hexdigest()[:12]


def journal(folder: Path, rank: int = 0) -> list[list[str]]:
    path = folder / f"journal_{rank}"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


# ------------------------------------------------------------------------------------------------------------ one run


def kill_at(moment: str, count: int) -> None:
    """Make this process kill its whole group at the `count`-th such moment of saving a checkpoint."""
    from callbacks.durable_checkpoints import DurableCheckpointIO

    left = {"count": count}

    def die_at_last() -> bool:
        left["count"] -= 1
        return left["count"] == 0

    def die() -> None:
        os.killpg(0, signal.SIGKILL)
        time.sleep(60)

    save, replace, remove = torch.save, os.replace, DurableCheckpointIO.remove_checkpoint
    journal_batch = Journal.on_train_batch_end

    def save_half(checkpoint, stream, **options) -> None:
        if not die_at_last():
            return save(checkpoint, stream, **options)
        whole = io.BytesIO()
        save(checkpoint, whole, **options)
        stream.write(whole.getvalue()[: whole.tell() // 2])
        stream.flush()
        die()

    def die_before_replace(source, target) -> None:
        if str(target).endswith(".ckpt") and die_at_last():
            die()
        replace(source, target)

    def die_after_removal(self, path) -> None:
        remove(self, path)
        if die_at_last():
            die()

    def die_inside_a_window(self, trainer, *args) -> None:
        # At the second micro-batch: everything saved after the first is on disk, and no new step is.
        if die_at_last():
            die()
        journal_batch(self, trainer, *args)

    if moment == "window":
        Journal.on_train_batch_end, left["count"] = die_inside_a_window, 2
    elif moment == "write":
        torch.save = save_half
    elif moment == "replace":
        os.replace = die_before_replace
    elif moment == "removal":
        DurableCheckpointIO.remove_checkpoint = die_after_removal


def start(folder: Path, num_ranks: int, attempt: int, moment: str, count: int) -> list[int]:
    """Fork one process per rank; they share a process group of their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children: list[int] = []
    for rank in range(num_ranks):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setpgid(0, children[0] if children else 0)
                run_rank(folder, num_ranks, rank, port, attempt, moment, count)
                status = 0
            except BaseException:
                traceback.print_exc()  # into its log
                raise
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        os.setpgid(child, children[0] if children else child)
        children.append(child)
    return children


def run_rank(folder: Path, num_ranks: int, rank: int, port: int, attempt: int, moment: str, count: int) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    import run

    log = os.open(folder / f"log_{attempt}_{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["ATTEMPT"] = str(attempt)
    if num_ranks > 1:
        world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": num_ranks, "LOCAL_RANK": rank}
        os.environ.update({name: str(value) for name, value in world.items()})
        rank_zero_only.rank = rank
    if rank == 0:
        kill_at(moment, count)
    sys.argv = ["run.py"]
    configs = sorted(folder.glob("config*.yaml"))
    run.main(["fit", *(word for config in configs for word in ("--config", str(config)))])


def wait(children: list[int]) -> list[int]:
    return [os.waitpid(child, 0)[1] for child in children]


def kill_when_past(
    children: list[int], folder: Path, attempt: int, step: int, delay: float, number: signal.Signals = signal.SIGKILL
) -> None:
    """Signal the group, loaders included, a moment after it has journaled `step` in this attempt."""
    while os.waitpid(children[0], os.WNOHANG) == (0, 0):
        if any(line[0] == str(attempt) and int(line[1]) >= step for line in journal(folder) if line[1] != "end"):
            time.sleep(delay)
            break
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):  # it ended by itself: the test will report it
        os.killpg(children[0], number)


# ------------------------------------------------------------------------------------------------------ the experiment


def experiment(folder: Path, config: str, kills: Sequence[str], steps_per_checkpoint: int, num_ranks: int = 1) -> None:
    """The uninterrupted run in `folder/whole`, then that in `folder/killed`, which is killed in every way of `kills`:
    at a "random" step, while it saves a checkpoint ("write", "replace", "removal"), or inside the first accumulation
    "window" after its start; "interrupt" is a Ctrl-C at a random step."""
    homes = {kind: folder / kind for kind in ("whole", "killed")}
    for home in homes.values():
        home.mkdir(parents=True)
        (home / "config.yaml").write_text(config.replace("FOLDER", str(home)))
    wait(start(homes["whole"], num_ranks, 0, "", 0))
    chance = random.Random(folder.name)
    home, last = homes["killed"], 0
    for attempt, moment in enumerate(kills):
        children = start(home, num_ranks, attempt, moment, chance.randint(2, 4) // (1 + (moment == "removal")))
        if moment in ("random", "interrupt"):
            number = signal.SIGKILL if moment == "random" else signal.SIGINT
            kill_when_past(children, home, attempt, last + chance.randint(4, 8), chance.uniform(0, 0.02), number)
        for child in children:
            with contextlib.suppress(ChildProcessError):  # waited for already
                os.waitpid(child, 0)
        left = sorted((home / "run/checkpoints").glob("*"))
        damaged = [path.name for path in left if not zipfile.is_zipfile(path)]
        (home / f"damaged_{attempt}.json").write_text(json.dumps(damaged))
        steps = [int(line[1]) for line in journal(home) if "step" in line]
        last = max(steps, default=0) // steps_per_checkpoint * steps_per_checkpoint
    wait(start(home, num_ranks, len(kills), "", 0))


def run_script(file: str, folder: Path) -> None:
    """Run the test file as a script that makes its runs in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, file, str(folder)]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stdout + process.stderr


def import_before_forks(*names: str) -> None:
    """Import once, so that a run starts in a fraction of a second."""
    for name in ("run", *names):
        importlib.import_module(name)


# ------------------------------------------------------------------------------------------------------ what must hold


def assert_continued(
    folder: Path, kills: Sequence[str], num_steps: int, steps_per_checkpoint: int, num_ranks: int = 1
) -> None:
    """Check that every attempt continued from the newest complete checkpoint and repeated the uninterrupted run bit for
    bit."""
    for rank in range(num_ranks):
        expected = {place(line): line[2:] for line in journal(folder / "whole", rank)}
        whole_steps = [line[1] for line in journal(folder / "whole", rank) if line[1] == "end" or line[2] == "step"]
        assert whole_steps == [*map(str, range(1, num_steps + 1)), "end"]
        lines = journal(folder / "killed", rank)
        assert {place(line) for line in lines} == set(expected)
        for line in lines:
            assert line[2:] == expected[place(line)], f"{line}, but expected {expected[place(line)]}"
    attempts = steps_by_attempt(folder)
    stepped = [number for number in range(len(kills) + 1) if number == len(kills) or kills[number] != "window"]
    assert list(attempts) == stepped, "every attempt but the last is killed after it made a step, or inside its first"
    for before, number in pairwise(stepped):
        # A step is journaled before the checkpoint that follows it is written.
        last = max(max(attempts[one]) for one in stepped if one <= before)
        newest = (last - 1) // steps_per_checkpoint * steps_per_checkpoint
        assert newest < attempts[number][0] <= last + 1, f"attempt {number} did not take the newest whole checkpoint"
    for number in range(1, len(kills) + 1):
        assert f"fit starts from {folder}" in (folder / f"killed/log_{number}_0").read_text()
    for number, moment in enumerate(kills):
        if moment == "interrupt":
            assert "unfinished (interrupted after step" in (folder / f"killed/log_{number}_0").read_text()
            assert attempts[number + 1][0] == attempts[number][-1] + 1, "Ctrl-C saves the step after which it stops"


def steps_by_attempt(folder: Path) -> dict[int, list[int]]:
    attempts: dict[int, list[int]] = {}
    for attempt, step, kind, *_ in journal(folder / "killed"):
        if kind == "step":
            attempts.setdefault(int(attempt), []).append(int(step))
    return attempts


def place(line: Sequence[str]) -> str:
    """Position of a micro-batch in the run: the step that it belongs to or ended, and its position in the epoch."""
    return line[1] if line[1] == "end" else f"{line[1]} {line[2]} {line[3]}"


def assert_no_damage(folder: Path, kills: Sequence[str]) -> None:
    """Check that no kill left a truncated file under a checkpoint's name, and one in a write left a temporary one."""
    for number, moment in enumerate(kills):
        damaged = json.loads((folder / f"killed/damaged_{number}.json").read_text())
        assert not [path for path in damaged if path.endswith(".ckpt")]
        if moment == "write":
            assert damaged, "the kill did not fall into a write"
