"""One training step of Llasa-1B on a GPU, against its recipe, and against the estimates of docs/lm_plan.md.

    python -m benchmarks.gpu.lm_step [--parts check step trainer head] [--rounds 5] [--json FILE]

`check`: a small network in float32, loss and gradients of both sides. `step`: benchmarks/lm_training_step.py at full
size in bfloat16; the recipe takes two padded rows at a time, as both networks with their optimizers are on the device.
`trainer`: Lightning's Trainer with LMModule, AdamW and clipping in bf16-mixed, over full rows of 512-token documents:
time, model FLOPs utilisation and peak memory beside the estimate, with and without recomputed activations.
`head`: benchmarks/head_loss.py for one row of 2,048 tokens, under autocast.

Weights and codes are random. Results: studies/lm_speed/gpu.json.
"""

import argparse
import gc
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from benchmarks import head_loss
from benchmarks.lm_memory import DOCUMENT_TOKENS, Rows
from benchmarks.lm_training_step import MEAN_SECONDS, measure, utterances
from benchmarks.sampling_engines import RandomText
from benchmarks.scaffold import machine, median_seconds, options, report
from callbacks.throughput import HOPPER_SXM_HALF_FLOPS, peak_memory
from modules.lm.network import LlamaSize
from modules.lm.resource_plan import Hardware, memory_plan, num_parameters, read_size, training_flops
from modules.lm.text.prompt_format import TextToSpeech
from modules.lm_module import LMModule

SMALL = LlamaSize(hidden_size=256, intermediate_size=768, num_layers=4, num_heads=8, num_key_value_heads=2)
FORMAT = TextToSpeech(RandomText(128_256), 65_536)
NUM_WARMUP_STEPS = 3


class Clock(L.Callback):
    """Times the steps after the warm-up, and the peak of the allocated memory from its end."""

    def on_train_batch_start(self, trainer: L.Trainer, module: LMModule, batch: Any, batch_index: int) -> None:
        if batch_index == NUM_WARMUP_STEPS:
            wait()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            self.start = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, module: LMModule) -> None:
        wait()
        self.seconds = (time.perf_counter() - self.start) / (trainer.global_step - NUM_WARMUP_STEPS)
        self.peak_bytes = peak_memory(module.device)


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def checked(given: argparse.Namespace) -> dict[str, Any]:
    """Loss and gradients of a small network in float32. Raises AssertionError where they differ."""
    documents = utterances(FORMAT, 6.6, 6)
    return measure(SMALL, FORMAT, documents, 1, 2048, given.device, tolerance=1e-4)


def steps(given: argparse.Namespace) -> dict[str, Any]:
    size, cases = read_size(given.size), {}
    for name, mean_seconds in MEAN_SECONDS.items():
        number = round(given.num_utterances * MEAN_SECONDS["LJSpeech"] / mean_seconds)
        documents = utterances(FORMAT, mean_seconds, number)
        cases[name] = measure(
            size, FORMAT, documents, given.rounds, 2048, given.device, is_half=True, tolerance=3e-2, rows_at_once=2
        )
        free()
    return cases


def module_of(size: LlamaSize, recomputed: bool, device: str) -> LMModule:
    optimizer = partial(torch.optim.AdamW, lr=5e-5, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    with torch.device(device):
        module = LMModule(FORMAT, size, optimizer, recompute_activations=recomputed)
        module.configure_model()
    return module


def trained(size: LlamaSize, num_rows: int, recomputed: bool, num_steps: int, device: str) -> dict[str, Any]:
    """Steps of the Trainer; the estimates are those of docs/lm_plan.md for as many rows."""
    clock, vocab_size = Clock(), FORMAT.token_space.vocab_size
    rows = Rows(num_steps, num_rows * 2048, vocab_size)  # one long row: documents never cross its parts
    trainer = L.Trainer(
        accelerator=device, devices=1, precision="bf16-mixed", max_steps=num_steps, gradient_clip_val=1.0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[clock],
    )  # fmt: skip
    trainer.fit(module_of(size, recomputed, device), DataLoader(rows, batch_size=None))
    plan = memory_plan(size, vocab_size, Hardware("gpu1", 1, num_rows, 1, False, True), recomputed)
    num_tokens = num_rows * 2048
    flops = training_flops(size, vocab_size, DOCUMENT_TOKENS)
    return {
        "rows": num_rows,
        "recomputed": recomputed,
        "seconds_per_step": round(clock.seconds, 4),
        "tokens_per_second": round(num_tokens / clock.seconds),
        "mfu": round(num_tokens * flops / clock.seconds / HOPPER_SXM_HALF_FLOPS, 3),
        "planned_gigabytes": round(plan.total / 1e9, 1),
        "measured_gigabytes": round(clock.peak_bytes / 1e9, 1),
        "planned_over_measured": round(plan.total / clock.peak_bytes, 3),
    }


def trainings(given: argparse.Namespace) -> list[dict[str, Any]]:
    found = []
    for num_rows, recomputed in ((8, False), (8, True), (2, False)):
        found.append(trained(read_size(given.size), num_rows, recomputed, given.num_steps, given.device))
        print(found[-1], flush=True)
        free()
    return found


def head(given: argparse.Namespace) -> dict[str, Any]:
    """Time and memory of head and loss, of 2,048 tokens and Llasa's channels and words."""
    channels, vocab_size = read_size(given.size).hidden_size, FORMAT.token_space.vocab_size
    tensors = head_loss.inputs(2048, channels, vocab_size, given.device, torch.float32)
    losses = {one.__name__: head_loss.autocasted(one, given.device) for one in (head_loss.naive, head_loss.ours)}
    expected, actual = (head_loss.gradients(losses[name], tensors) for name in ("naive", "ours"))
    for one, other in zip(expected, actual, strict=True):
        torch.testing.assert_close(other, one, rtol=2e-2, atol=2e-2 * float(one.abs().max()))
    del expected, actual, one, other
    peaks = {name: head_loss.peak_bytes(loss, tensors) for name, loss in losses.items()}
    medians = median_seconds({name: partial(head_loss.gradients, loss, tensors) for name, loss in losses.items()}, 20)
    return {
        "milliseconds": {name: round(1000 * value, 2) for name, value in medians.items()},
        "time_ratio": round(medians["ours"] / medians["naive"], 3),
        "peak_megabytes": {name: round(value / 1e6) for name, value in peaks.items()},
        "peak_ratio": round(peaks["ours"] / peaks["naive"], 3),
        "num_tokens": 2048,
        "hidden_size": channels,
        "vocab_size": vocab_size,
    }


def profiled(given: argparse.Namespace) -> None:
    """Print the kernels that take most of a step of four rows."""
    size = read_size(given.size)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        trained(size, 4, False, NUM_WARMUP_STEPS + 2, given.device)
    print(profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=110))


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "check": checked,
    "head": head,
    "trainer": trainings,
    "step": steps,
}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--size", type=Path, default=Path("configs/lm/size/llama_1b.yaml"))
    parser.add_argument(
        "--num_utterances", type=int, default=22, help="of the mean of LJSpeech; of 10 s, as much audio"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num_steps", type=int, default=NUM_WARMUP_STEPS + 10, help="of the Trainer")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--profile", action="store_true", help="print where a step spends its time, and nothing else")
    given = parser.parse_args()
    if given.profile:
        profiled(given)
        return
    found = {}
    for name in given.parts:
        found[name] = PARTS[name](given)
        print(name, found[name], flush=True)
        free()
    total = num_parameters(read_size(given.size), FORMAT.token_space.vocab_size)
    about = {"size": given.size.stem, "num_parameters": total, "rounds": given.rounds}
    report(found | about | machine("transformers", "lightning", on_gpu=given.device != "cpu"), given.json)


if __name__ == "__main__":
    main()
