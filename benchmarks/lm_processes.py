"""A training step of the voice's language model on two cores: two processes of one thread against one of two threads.

    python -m benchmarks.lm_processes [--rounds 10] [--json FILE]

The model is that of configs/voice/open/lm_model.yaml, a step four rows of 512 tokens, in the precision that this
machine computes faster. Two processes take two of the rows each and average their gradients, as
configs/voice/open/two_processes.yaml does. All processes are started first, and wait while the other way is timed.
Losses and gradients of the first step are compared before. Threads are bound to no core.
"""

import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from benchmarks.precision import step_of
from benchmarks.scaffold import machine, median_seconds, options, report
from datamodules.packing import token_batch
from modules.lm.network import LlamaSize, SpeechLanguageModel, build_llama
from modules.precision import automatic_precision

MODEL = Path(__file__).resolve().parent.parent / "configs/voice/open/lm_model.yaml"
WAYS = {"one process": 1, "two processes": 2}
NUM_ROWS, ROW_LENGTH, DOCUMENT_LENGTH, VOCAB_SIZE = 4, 512, 150, 4360
NUM_CORES, STEPS_AT_ONCE = 2, 4
TOLERANCE = {True: 2e-2, False: 1e-4}  # of the norm, in bf16-mixed or not


def work(rank: int, num_processes: int, meeting_point: str, model_file: Path, is_half: bool, pipe: Connection) -> None:
    """Send loss and gradients of the first step, then make as many updates as the other end asks for, until it asks for
    none."""
    torch.set_num_threads(NUM_CORES // num_processes)
    torch.set_flush_denormal(True)  # as run.py does
    torch.manual_seed(0)
    size = LlamaSize(**yaml.safe_load(model_file.read_text())["init_args"]["size"])
    model: torch.nn.Module = SpeechLanguageModel(build_llama(size, VOCAB_SIZE)).train()
    documents = torch.randint(VOCAB_SIZE, (NUM_ROWS, ROW_LENGTH // DOCUMENT_LENGTH, DOCUMENT_LENGTH)).tolist()
    batch = token_batch([[(one, 0) for one in row] for row in documents[rank::num_processes]], ROW_LENGTH)
    if num_processes > 1:
        store = distributed.FileStore(meeting_point, num_processes)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=num_processes)
        model = DistributedDataParallel(model)

    def loss() -> Tensor:
        found = model(batch)
        return found.total / found.num_targets  # as many in each row, so that the mean of the means is that of all

    with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
        first = loss()
    first.backward()
    gradients = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    pipe.send((float(first.detach()), gradients.numpy() if rank == 0 else None))
    update = step_of(model.parameters(), loss, is_half)
    while number := pipe.recv():
        for _ in range(number):
            update()
        pipe.send(None)
    if num_processes > 1:
        distributed.destroy_process_group()


def started(num_processes: int, folder: str, model_file: Path, is_half: bool) -> list[Connection]:
    """The pipes to new processes."""
    context = multiprocessing.get_context("spawn")
    pipes = []
    for rank in range(num_processes):
        ours, theirs = context.Pipe()
        arguments = (rank, num_processes, f"{folder}/{num_processes}", model_file, is_half, theirs)
        context.Process(target=work, args=arguments, daemon=True).start()
        theirs.close()
        pipes.append(ours)
    return pipes


def check_equal(first: dict[str, list[tuple[float, Any]]], tolerance: float) -> dict[str, float]:
    """Compare the first steps' losses and gradients, by way. Raises AssertionError if they differ."""
    losses = {way: sum(loss for loss, _ in found) / len(found) for way, found in first.items()}
    one, two = (torch.from_numpy(first[way][0][1]) for way in WAYS)
    differences = {
        "loss_difference": abs(losses["two processes"] / losses["one process"] - 1),
        "gradient_difference": float((two - one).norm() / one.norm()),
    }
    if not max(differences.values()) <= tolerance:
        raise AssertionError(f"Expected equal losses and gradients, but got {differences}.")
    return {name: float(f"{value:.2g}") for name, value in differences.items()}


def measure(rounds: int, is_half: bool, model_file: Path = MODEL) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        pipes = {way: started(number, folder, model_file, is_half) for way, number in WAYS.items()}
        differences = check_equal(
            {way: [pipe.recv() for pipe in ends] for way, ends in pipes.items()}, TOLERANCE[is_half]
        )

        def updates(way: str) -> Callable[[], None]:
            def call() -> None:
                for pipe in pipes[way]:
                    pipe.send(STEPS_AT_ONCE)
                for pipe in pipes[way]:
                    pipe.recv()

            return call

        calls = {way: updates(way) for way in WAYS}
        median_seconds(calls, 2)
        seconds = median_seconds(calls, rounds)
        for pipe in (pipe for ends in pipes.values() for pipe in ends):
            pipe.send(0)
    return {
        "milliseconds": {way: round(1000 * value / STEPS_AT_ONCE, 1) for way, value in seconds.items()},
        "speedup": round(seconds["one process"] / seconds["two processes"], 2),
        **differences,
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    precision, reason = automatic_precision("cpu")
    about = {"precision": precision, "reason": reason, "num_cores": NUM_CORES, "rounds": given.rounds}
    report(measure(given.rounds, precision == "bf16-mixed") | about | machine("transformers"), given.json)


if __name__ == "__main__":
    main()
