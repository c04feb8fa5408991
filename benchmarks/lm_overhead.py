"""Overhead of a language-model training step besides its arithmetic: a Trainer against a bare loop, alternating.

    python -m benchmarks.lm_overhead [--num_steps 560] [--rounds 5] [--profile] [--json FILE]

The Trainer is that of configs/lm/llasa_1b.yaml with everything in it: logger, callbacks, durable checkpoints,
clipping and the progress bar; two tasks are mixed, so that each has its own loss. The bare loop is a minimal
hand-written one: the same network, batches, clipping, AdamW and schedule, and nothing else. The losses of all steps are
compared. The model is so small that the difference is visible; it is host time, and does not grow with the model.

Steps are timed from the start of one to the start of a later one, so that everything in between counts, including a
checkpoint every 500 steps. Validation is excluded. The result is the CPU time of the training thread, which other
programs do not affect; wall time, which includes waiting for the disk, is also printed.
"""

import contextlib
import cProfile
import importlib
import io
import logging
import pstats
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.scaffold import machine, options, report
from datamodules.packing import pack, token_batch
from modules.batches import TokenBatch
from modules.lm.network import LlamaSize
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech
from modules.lm_module import LMModule
from modules.schedule import WarmupCosine

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FORMAT = TextToSpeech(ByteTokenizer(), codebook_size=64)
SIZE = LlamaSize(hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2, num_key_value_heads=1)
ROW_LENGTH, NUM_ROWS, NUM_BATCHES = 128, 2, 16
TASKS = ["one", "other"]


def ready_batches() -> list[TokenBatch]:
    """Return rows of random documents, alternating between two tasks."""
    generator = np.random.default_rng(0)
    batches = []
    for _ in range(NUM_BATCHES):
        documents = [
            FORMAT.example_tokens("text", generator.integers(0, 64, length))
            for length in generator.integers(10, 50, 3 * NUM_ROWS)
        ]
        packed = pack([len(tokens) for tokens, _ in documents], ROW_LENGTH)[:NUM_ROWS]
        rows = [[documents[number] for number in row] for row in packed]
        batches.append(token_batch(rows, ROW_LENGTH, [[number % 2 for number in row] for row in packed]))
    return batches


class ReadyData(L.LightningDataModule):
    task_names = TASKS

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        batches = ready_batches()
        self.batches = [batches[step % NUM_BATCHES] for step in range(num_steps)]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None)


def clocks() -> tuple[float, float]:
    """Seconds of this thread's CPU time, and of wall time."""
    return time.thread_time(), time.perf_counter()


class Marks(L.Callback):
    """Records the loss of every step, and the clocks at the start of step `first` and of the last."""

    def __init__(self, first: int) -> None:
        self.first, self.losses, self.starts = first, [], []

    def on_train_batch_start(self, trainer: L.Trainer, module: LMModule, batch: TokenBatch, batch_index: int) -> None:
        if batch_index in (self.first, trainer.max_steps - 1):
            self.starts.append(clocks())

    def on_train_batch_end(
        self, trainer: L.Trainer, module: LMModule, outputs: dict[str, Tensor], batch: TokenBatch, batch_index: int
    ) -> None:
        self.losses.append(outputs["loss"])


def built(node: Any) -> Any:
    """Instantiate a part of a config named by class_path; a list of callbacks may name classes alone."""
    if isinstance(node, list):
        return [built({"class_path": item} if isinstance(item, str) else item) for item in node]
    if not isinstance(node, dict) or "class_path" not in node:
        return node
    module, name = node["class_path"].rsplit(".", 1)
    settings = {key: built(value) for key, value in node.get("init_args", {}).items()}
    return getattr(importlib.import_module(module), name)(**settings)


def configured_trainer(folder: Path, num_steps: int, marks: Marks, **given: object) -> L.Trainer:
    defaults, recipe, config = (
        yaml.safe_load((CONFIGS / name).read_text().replace("${stage.folder}", str(folder)))
        for name in ("trainer.yaml", "lm/llasa_1b.yaml", "lm/llasa_trainer.yaml")
    )
    defaults = defaults["fit"]
    defaults["checkpoint"]["init_args"] |= recipe["checkpoint"]
    keyed = [defaults[key] for key in ("checkpoint", "learning_rate_monitor", "progress_bar", "run_layout")]
    config["callbacks"] += keyed
    config = defaults["trainer"] | {"logger": defaults["logger"]} | config
    changed = {"accelerator": "cpu", "precision": "32-true", "max_steps": num_steps, "limit_val_batches": 0}
    changed["val_check_interval"] = 2000  # the config's is converted by the command line
    settings = {name: built(value) for name, value in (config | changed | given).items()}
    settings["callbacks"].append(marks)
    return L.Trainer(**settings)


def new_module(num_steps: int) -> LMModule:
    torch.manual_seed(0)
    module = LMModule(
        FORMAT, SIZE, partial(torch.optim.AdamW, lr=1e-3, betas=(0.9, 0.95), fused=True),
        partial(WarmupCosine, num_warmup_steps=0.03, num_steps=num_steps),
    )  # fmt: skip
    module.configure_model()
    module._log_hyperparams = False  # the logger writes them as yaml, which dataclasses are not
    return module


def trainer_run(data: ReadyData, num_steps: int, first: int) -> Marks:
    marks = Marks(first)
    with tempfile.TemporaryDirectory() as folder:
        trainer = configured_trainer(Path(folder), num_steps, marks)
        trainer.fit(new_module(num_steps), data)
    return marks


def bare_run(data: ReadyData, num_steps: int, first: int) -> Marks:
    marks, module = Marks(first), new_module(num_steps)
    network = module.network.train()
    weights = list(network.parameters())
    optimizer = module.optimizer(weights)
    scheduler = module.scheduler(optimizer)
    for step, batch in enumerate(data.train_dataloader()):
        if step in (first, num_steps - 1):
            marks.starts.append(clocks())
        loss = network(batch)
        mean = loss.total / loss.num_targets
        optimizer.zero_grad()
        mean.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        scheduler.step()
        marks.losses.append(mean.detach())
    return marks


def measure(num_steps: int, rounds: int, first: int) -> dict[str, object]:
    data = ReadyData(num_steps)
    taken: dict[str, list[list[float]]] = {"trainer": [], "bare": []}
    for _ in range(rounds):
        for name, run in (("bare", bare_run), ("trainer", trainer_run)):
            with quiet():
                marks = run(data, num_steps, first)
            pairs = zip(*marks.starts, strict=True)
            taken[name].append([1000 * (end - start) / (num_steps - 1 - first) for start, end in pairs])
            losses = torch.stack(marks.losses)
            if name == "bare":
                expected = losses
            torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
    trainer, bare = (list(zip(*taken[name], strict=True)) for name in ("trainer", "bare"))
    overheads = [
        statistics.median(both - alone for both, alone in zip(*sides, strict=True))
        for sides in zip(trainer, bare, strict=True)
    ]
    return {
        "milliseconds_per_step": round(overheads[0], 3),
        "goal": 1.0,
        "milliseconds": {"trainer": middle(trainer[0]), "bare": middle(bare[0])},
        "wall_milliseconds_per_step": round(overheads[1], 3),
        "wall_milliseconds": {"trainer": middle(trainer[1]), "bare": middle(bare[1])},
        "num_losses_compared": len(expected),
    }


def middle(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the run's output; the bar is drawn all the same."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    sink = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        warnings.filterwarnings("ignore")
        yield


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--num_steps", type=int, default=560)
    parser.add_argument("--warmup", type=int, default=40, help="steps before the clock starts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print where one run of the Trainer spends its time")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.profile:
        with cProfile.Profile() as profile, quiet():
            trainer_run(ReadyData(given.num_steps), given.num_steps, given.warmup)
        pstats.Stats(profile).sort_stats("cumulative").print_stats(60)
        return
    result = measure(given.num_steps, given.rounds, given.warmup)
    result["about"] = {
        "num_steps": given.num_steps,
        "rounds": given.rounds,
        "num_threads": 1,
        **machine("lightning"),
    }
    report(result, given.json)


if __name__ == "__main__":
    main()
