"""The estimated memory against every byte allocated by torch during training."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.lm_memory import train
from modules.lm.adapters import LowRankAdapters
from modules.lm.network import LlamaSize
from modules.lm.resource_plan import LLASA_ADAPTERS, Hardware, memory_plan
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech

ROW_LENGTH, CODEBOOK_SIZE = 192, 1000
SIZE = LlamaSize(hidden_size=96, intermediate_size=256, num_layers=4, num_heads=4, num_key_value_heads=2)


def peak_bytes(action: Callable[[], None], trace: Path) -> int:
    """Largest amount allocated at once beyond the initial amount, from the allocator's own record of every block."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        action()
    profiler.export_chrome_trace(str(trace))
    events = [one for one in json.loads(trace.read_text())["traceEvents"] if one.get("name") == "[memory]"]
    events.sort(key=lambda one: one["ts"])
    held, peak = 0, 0
    for event in events:
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize("adapters", [None, LLASA_ADAPTERS], ids=["whole", "adapters"])
@pytest.mark.parametrize("recomputed", [False, True])
def test_the_plan_is_the_peak_of_a_training_step(
    recomputed: bool, adapters: LowRankAdapters | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against an estimate below the actual training's, or far above it."""
    torch.set_num_threads(1)
    vocab_size = TextToSpeech(ByteTokenizer(), CODEBOOK_SIZE).token_space.vocab_size
    place = Hardware("cpu", 1, 1, 1, is_sharded=False, is_half=False, row_length=ROW_LENGTH)
    planned = memory_plan(SIZE, vocab_size, place, recomputed, adapters).total
    monkeypatch.setattr("modules.lm_module.check_adapters", lambda *given: None)  # frozen random rows do no harm here
    peak = peak_bytes(lambda: train(SIZE, CODEBOOK_SIZE, recomputed, 2, ROW_LENGTH, adapters), tmp_path / "trace.json")
    assert planned == pytest.approx(peak, rel=0.15)
