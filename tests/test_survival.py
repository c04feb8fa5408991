"""Training that is killed with SIGKILL and started again by the same command, against training that was not.

Run as a script with a folder, this file is the experiment: it imports everything once and forks each run, which
`run.py` then serves as it serves a command.
"""

import contextlib
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
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

NUM_STEPS, STEPS_PER_CHECKPOINT = 40, 3
SETTINGS = {"ranks1_workers0": (1, 0), "ranks1_workers2": (1, 2), "ranks2_workers0": (2, 0), "ranks2_workers2": (2, 2)}
KILLS = ("random", "write", "random", "removal", "random", "replace")
CONFIG = f"""
seed_everything: 3
num_threads: 1
stage: {{folder: FOLDER/run, outputs: ['${{stage.folder}}/checkpoints/last.ckpt']}}
ckpt_path: last
model:
  class_path: modules.lm_module.LMModule
  init_args:
    size: {{hidden_size: 16, intermediate_size: 24, num_layers: 1, num_heads: 2, num_key_value_heads: 1}}
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.01}}}}
    scheduler: {{class_path: modules.schedule.WarmupCosine, init_args: {{num_warmup_steps: 4, num_steps: {NUM_STEPS}}}}}
data:
  class_path: datamodules.tokens.TokenDataModule
  init_args:
    folder: SHARDS
    prompt_format:
      class_path: modules.lm.prompt_format.TextToSpeech
      init_args: {{tokenizer: {{class_path: modules.lm.tokenizer.ByteTokenizer}}, codebook_size: 32}}
    row_length: 64
    batch_size: BATCH
    num_batches: {NUM_STEPS}
    num_workers: WORKERS
trainer:
  accelerator: cpu
  devices: RANKS
  strategy: STRATEGY
  max_steps: {NUM_STEPS}
  gradient_clip_val: 1.0
  limit_val_batches: 0
  logger: false
  default_root_dir: FOLDER/run  # else config.yaml lands where the command runs
  enable_progress_bar: false
  enable_model_summary: false
  use_distributed_sampler: false
  plugins: [{{class_path: callbacks.durable_checkpoints.DurableCheckpointIO}}]
  callbacks:
    - {{class_path: callbacks.step_guard.StepGuard}}
    - {{class_path: tests.test_survival.Journal, init_args: {{path: FOLDER/journal}}}}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args:
        {{dirpath: '${{stage.folder}}/checkpoints', every_n_train_steps: {STEPS_PER_CHECKPOINT}, save_last: true,
         save_top_k: 1, monitor: null}}
"""


class Journal(Callback):
    """A line per step and rank, written at once: attempt, step, loss and the batch's hash; at the end the weights'."""

    def __init__(self, path: str) -> None:
        self.path = path

    def _write(self, trainer, *words) -> None:
        with Path(f"{self.path}_{trainer.global_rank}").open("ab", buffering=0) as file:
            file.write((" ".join([os.environ["ATTEMPT"], *map(str, words)]) + "\n").encode())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        digest = hashlib.sha256(batch.tokens_RL.numpy().tobytes()).hexdigest()[:12]
        self._write(trainer, trainer.global_step, float(trainer.callback_metrics["train/loss"]).hex(), digest)
        time.sleep(0.002)  # so that a kill finds the run between its steps, too

    def on_train_end(self, trainer, pl_module) -> None:
        self._write(trainer, "end", pl_module.model_hash, "end")


# ------------------------------------------------------------------------------------------------------ the experiment


def write_shards(folder: Path) -> None:
    from datamodules.shards import ShardWriter

    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        with ShardWriter(folder / split, "tokens", {"codebook_size": 32, "codec_fingerprint": "a"}, 9) as writer:
            for number in range(40):
                codes = generator.integers(0, 32, generator.integers(5, 40)).astype(np.uint16)
                files = {"codes.npy": codes, "json": json.dumps({"text": f"t{number}"}).encode()}
                writer.write(f"k{number}", files, len(codes), f"t{number}")


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

    if moment == "write":
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
            finally:
                sys.stdout.flush()
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
    run.main(["fit", "--config", str(folder / "config.yaml")])


def journal(folder: Path, rank: int = 0) -> list[list[str]]:
    path = folder / f"journal_{rank}"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def wait(children: list[int]) -> list[int]:
    return [os.waitpid(child, 0)[1] for child in children]


def kill_when_past(children: list[int], folder: Path, attempt: int, step: int, delay: float) -> None:
    """SIGKILL the group a moment after it has journaled `step` in this attempt."""
    while os.waitpid(children[0], os.WNOHANG) == (0, 0):
        if any(line[0] == str(attempt) and int(line[1]) >= step for line in journal(folder) if line[1] != "end"):
            time.sleep(delay)
            break
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):  # it ended by itself: the test will say so
        os.killpg(children[0], signal.SIGKILL)


def experiment(folder: Path, name: str) -> None:
    """The uninterrupted run, then the one that is killed until it has been killed in every way."""
    num_ranks, num_workers = SETTINGS[name]
    strategy = "ddp" if num_ranks > 1 else "auto"
    values = {"SHARDS": folder / "shards", "WORKERS": num_workers, "RANKS": num_ranks, "STRATEGY": strategy}
    values["BATCH"] = 2 // num_ranks
    homes = {kind: folder / name / kind for kind in ("whole", "killed")}
    for home in homes.values():
        home.mkdir(parents=True)
        text = CONFIG
        for key, value in {"FOLDER": home, **values}.items():
            text = text.replace(key, str(value))
        (home / "config.yaml").write_text(text)
    wait(start(homes["whole"], num_ranks, 0, "", 0))
    chance = random.Random(name)
    home, last = homes["killed"], 0
    for attempt, moment in enumerate(KILLS):
        children = start(home, num_ranks, attempt, moment, chance.randint(2, 4) // (1 + (moment == "removal")))
        if moment == "random":
            kill_when_past(children, home, attempt, last + chance.randint(4, 8), chance.uniform(0, 0.02))
        for child in children:
            with contextlib.suppress(ChildProcessError):  # waited for already
                os.waitpid(child, 0)
        left = sorted((home / "run/checkpoints").glob("*"))
        damaged = [path.name for path in left if not zipfile.is_zipfile(path)]
        (home / f"damaged_{attempt}.json").write_text(json.dumps(damaged))
        steps = [int(line[1]) for line in journal(home) if line[1] != "end"]
        last = max(steps, default=0) // STEPS_PER_CHECKPOINT * STEPS_PER_CHECKPOINT
    wait(start(home, num_ranks, len(KILLS), "", 0))


# ----------------------------------------------------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("survival")
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, str(folder)]
    process = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stdout + process.stderr
    return folder


@pytest.mark.parametrize("name", SETTINGS)
def test_a_killed_run_continues_bit_for_bit(folder, name):
    """Guards against a batch skipped or repeated, weights or moments of another step, a start from the first step."""
    num_ranks, _ = SETTINGS[name]
    for rank in range(num_ranks):
        expected = {line[1]: line[2:] for line in journal(folder / name / "whole", rank)}
        assert set(expected) == {*map(str, range(1, NUM_STEPS + 1)), "end"}
        lines = journal(folder / name / "killed", rank)
        assert {line[1] for line in lines} == set(expected)
        for attempt, step, *rest in lines:
            assert rest == expected[step], (attempt, step)
    attempts: dict[int, list[int]] = {}
    for attempt, step, *_ in journal(folder / name / "killed"):
        if step != "end":
            attempts.setdefault(int(attempt), []).append(int(step))
    assert list(attempts) == list(range(len(KILLS) + 1)), "every attempt but the last is killed after it made a step"
    for number in range(1, len(attempts)):
        # A step is journaled before the checkpoint that follows it is written.
        last = max(max(attempts[before]) for before in range(number))
        newest = (last - 1) // STEPS_PER_CHECKPOINT * STEPS_PER_CHECKPOINT
        assert newest < attempts[number][0] <= last + 1, f"attempt {number} did not take the newest whole checkpoint"
        assert f"fit starts from {folder}" in (folder / name / f"killed/log_{number}_0").read_text()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_kill_leaves_no_damaged_checkpoint_under_a_name_that_is_read(folder, name):
    """Guards against a checkpoint cut short where a resume, an export or a sweep would take it for whole."""
    for number, moment in enumerate(KILLS):
        damaged = json.loads((folder / name / f"killed/damaged_{number}.json").read_text())
        assert not [path for path in damaged if path.endswith(".ckpt")]
        if moment == "write":
            assert damaged, "the kill did not fall into a write"


if __name__ == "__main__":
    for module in ("run", "transformers.models.llama.modeling_llama", "datamodules.tokens", "modules.lm_module"):
        importlib.import_module(module)  # before the forks: a run then starts in a fraction of a second
    write_shards(Path(sys.argv[1]) / "shards")
    for setting in sys.argv[2:] or SETTINGS:
        experiment(Path(sys.argv[1]), setting)
