"""Throughput against numbers counted by hand, with a fake clock."""

from types import SimpleNamespace

import pytest
import torch

from callbacks import throughput
from callbacks.throughput import Throughput, token_counts
from datamodules.packing import token_batch
from modules.batches import TokenBatch
from modules.lm.flops import TransformerSize
from modules.lm_module import LMModule
from tests.toys.lm_toys import FORMAT, SIZE

ROW_LENGTH = 32


def example_batch() -> TokenBatch:
    """Two rows: two documents and one, with padding."""
    batch = TokenBatch(*(torch.full((2, ROW_LENGTH), fill) for fill in (0, -100, 0, -1)))
    for row, documents in enumerate([[10, 6], [20]]):
        start = 0
        for number, length in enumerate(documents):
            part = slice(start, start + length)
            batch.documents_RL[row, part] = number
            batch.positions_RL[row, part] = torch.arange(length)
            batch.labels_RL[row, start + length // 2 : start + length] = 1
            start += length
    return batch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Recorder:
    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics, step):
        self.rows.append((step, metrics))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    return clock


def run(clock: Clock, num_batches: int, accumulate: int = 1, every: int = 2, pause_at: int | None = None) -> Recorder:
    """A batch takes a second; a validation of 50 s precedes batch `pause_at`."""
    recorder = Recorder()
    trainer = SimpleNamespace(
        global_step=0, log_every_n_steps=every, loggers=[recorder], world_size=3, precision="32-true"
    )
    module = SimpleNamespace(device=torch.device("cpu"), training_flops=lambda *counts: 10.0 * sum(counts))
    monitor = Throughput(peak_flops=1000.0)
    monitor.on_fit_start(trainer, module)
    for number in range(num_batches):
        if number == pause_at:
            monitor.on_validation_start(trainer, module)
            clock.now += 50
            monitor.on_validation_end(trainer, module)
        clock.now += 1
        trainer.global_step = (number + 1) // accumulate
        monitor.on_train_batch_end(trainer, module, None, example_batch(), number)
    return recorder


def test_counts_are_those_of_the_documents():
    """Guards against padding that counts as work, and a document counted for each of its tokens."""
    assert token_counts(example_batch()).tolist() == [36, 3, 18]


def test_tokens_are_divided_by_the_time_that_training_took(clock):
    """Guards against including validation or the first step in the time, and against omitting other ranks' tokens."""
    rows = run(clock, 6, pause_at=3).rows
    assert [step for step, _ in rows] == [1, 3, 5]  # Lightning's numbers of the steps 2, 4 and 6
    for _, values in rows:
        assert values["train/useful_tokens_per_second"] == pytest.approx(3 * 36)
        assert values["train/padded_tokens_per_second"] == pytest.approx(3 * 64)
        assert values["train/mfu"] == pytest.approx(10 * (36 + 3 + 18) / 1000)
        assert 0.05 < values["train/peak_memory_gb"] < 200


def test_micro_batches_of_a_step_are_counted_together_and_logged_once(clock):
    """Guards against a logged row for every micro-batch, and against counting only the last one's tokens."""
    rows = run(clock, 12, accumulate=3).rows
    assert [step for step, _ in rows] == [1, 3]
    assert rows[1][1]["train/useful_tokens_per_second"] == pytest.approx(3 * 36)


def test_the_module_prices_a_batch_as_the_ledger_does():
    """Guards against a utilisation with other FLOPs than the plan's: 6 per weight and token, attention within
    documents, the head only for targets. The reference is torch's counter on the same batch."""
    module = LMModule(FORMAT, SIZE)
    batch = example_batch()
    flops = module.training_flops(*token_counts(batch).tolist())
    size = TransformerSize.of(module.network.llama)
    assert flops == pytest.approx(size.training_flops(36, 12, 0.5))
    products = 6 * (size.num_weights * 36 + SIZE.hidden_size * FORMAT.token_space.vocab_size * 18)
    assert products < flops < 1.2 * products


def test_packed_rows_are_counted_whole():
    """Guards against a count that does not match the packing."""
    documents = [FORMAT.example_tokens("one", [1, 2, 3]), FORMAT.example_tokens("two four", [4] * 9)]
    batch = token_batch([documents], 64)
    num_targets = sum(len(tokens) - num_context for tokens, num_context in documents)
    assert token_counts(batch).tolist() == [sum(len(tokens) for tokens, _ in documents), 2, num_targets]
