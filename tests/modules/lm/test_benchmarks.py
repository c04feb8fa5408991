"""The benchmarks of the language model in small form: both sides of each are equal, and a fault in ours is detected."""

import argparse
import math
import multiprocessing
import threading

import pytest
import yaml

from benchmarks import lm_data_path, lm_overhead, lm_processes, lm_training_step
from benchmarks.peers.llasa_recipe import PaddedUtterances
from modules.lm.network import LlamaSize
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech
from modules.threads import torch_threads

FORMAT = TextToSpeech(ByteTokenizer(), codebook_size=40)
SIZE = LlamaSize(hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_key_value_heads=1)


def test_packed_rows_have_the_gradients_of_the_recipe():
    """Guards against a comparison of two different things."""
    documents = lm_training_step.utterances(FORMAT, mean_seconds=0.5, number=5)
    result = lm_training_step.measure(SIZE, FORMAT, documents, rounds=1, row_length=96)
    assert 0 < result["gradient_difference"] < 1e-5 and result["packed_fill"] > result["fill"]
    assert result["speedup"] > 0 and result["num_utterances"] == 5


def test_gradients_that_differ_stop_the_benchmark(monkeypatch):
    """Guards against a check that always passes; here the packed documents lack their last tokens."""
    documents = lm_training_step.utterances(FORMAT, mean_seconds=0.5, number=5)
    packed_batch = lm_training_step.packed_batch
    monkeypatch.setattr(
        lm_training_step, "packed_batch", lambda given, length: packed_batch([(t[:-1], n) for t, n in given], length)
    )
    with pytest.raises(AssertionError, match="equal loss and gradients"):
        lm_training_step.measure(SIZE, FORMAT, documents, rounds=1, row_length=96)


def test_packed_rows_hold_the_recipes_documents(tmp_path, monkeypatch):
    """Guards against a data path that is fast because it reads other data."""
    given = argparse.Namespace(num_samples=30, batch_size=2, num_packed_batches=1, num_padded_batches=1, rounds=1)
    result = lm_data_path.throughput(given, tmp_path / "whole")
    assert result["num_documents_compared"] > 5 and min(result["useful_tokens_per_second"].values()) > 0
    resumed = lm_data_path.resume(tmp_path / "whole", num_samples=5000, batch_size=2)
    assert resumed["num_samples"] == 5000
    item = PaddedUtterances.__getitem__
    monkeypatch.setattr(PaddedUtterances, "__getitem__", lambda self, number: item(self, number ^ 1))
    with pytest.raises(AssertionError, match="Expected the documents and labels"):
        lm_data_path.throughput(given, tmp_path / "exchanged")


def test_the_trainer_of_the_config_has_the_losses_of_a_bare_loop(monkeypatch):
    """Guards against an overhead that is measured on another training."""
    assert lm_overhead.measure(num_steps=12, rounds=1, first=2)["num_losses_compared"] == 12
    new_module = lm_overhead.new_module
    modules = iter([new_module(12), new_module(13)])  # another schedule
    monkeypatch.setattr(lm_overhead, "new_module", lambda num_steps: next(modules))
    with pytest.raises(AssertionError, match="not close"):
        lm_overhead.measure(num_steps=12, rounds=1, first=2)


def test_processes_with_other_gradients_stop_the_benchmark(tmp_path):
    """Guards against a check that always passes, and a worker that makes no update or does not end."""
    size = {"hidden_size": 16, "intermediate_size": 24, "num_layers": 2, "num_heads": 2, "num_key_value_heads": 1}
    model = tmp_path / "model.yaml"
    model.write_text(yaml.safe_dump({"init_args": {"size": size}}))
    ours, theirs = multiprocessing.Pipe()
    for request in (1, 0):  # one update, then the end
        ours.send(request)
    with torch_threads(2):
        worker = threading.Thread(target=lm_processes.work, args=(0, 1, "", model, False, theirs), daemon=True)
        worker.start()
        assert ours.poll(60), "the worker has failed"
        (loss, gradient), done = ours.recv(), ours.recv()
        worker.join()
    assert done is None and loss == pytest.approx(math.log(lm_processes.VOCAB_SIZE), rel=0.01) and gradient.any()
    first = {"one process": [(loss, gradient)], "two processes": [(loss - 1, gradient), (loss + 1, None)]}
    assert lm_processes.check_equal(first, 1e-4)["gradient_difference"] == 0
    with pytest.raises(AssertionError, match="equal losses and gradients"):
        lm_processes.check_equal(first | {"two processes": [(loss, 2 * gradient), (loss, None)]}, 1e-4)
