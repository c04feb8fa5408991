"""Estimates of modules/lm/resource_plan.py against the measured peak memory of training steps on a CPU.

    python -m benchmarks.lm_memory [--cases wide deep deep_recomputed] [--row_length 2048] [--num_steps 2]

Each case runs in a new process, which first trains a tiny model, so that every library is loaded, then one of 54M or
71M parameters with Lightning's Trainer and AdamW, a row at a time. Measures the growth of the resident set from between
the two to its peak (Linux). Freed blocks above 1 MB are returned to the system, so that the peak is the step's memory
and not the allocator's. Prints both, their parts and the ratio.
"""

import argparse
import gc
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.scaffold import machine, options, report
from modules.batches import TokenBatch
from modules.lm.adapters import LowRankAdapters
from modules.lm.network import LlamaSize
from modules.lm.resource_plan import Hardware, MemoryPlan, memory_plan, num_parameters
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech
from modules.lm_module import LMModule

DOCUMENT_TOKENS = 512
WIDE = LlamaSize(hidden_size=256, intermediate_size=768, num_layers=6, num_heads=4, num_key_value_heads=2)
DEEP = LlamaSize(hidden_size=512, intermediate_size=1536, num_layers=12, num_heads=8, num_key_value_heads=4)
# Size, codes, recomputed activations: Llasa's vocabulary on a small body, and a body larger than its vocabulary.
CASES = {
    "wide": (WIDE, 193_536, False),
    "deep": (DEEP, 65_536, False),
    "deep_recomputed": (DEEP, 65_536, True),
}
CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
KEPT_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576", "MALLOC_ARENA_MAX": "2"}


class Rows(Dataset):
    """One row of random tokens per step, in documents of 512, all with loss."""

    def __init__(self, num_steps: int, row_length: int, vocab_size: int) -> None:
        self.num_steps, self.row_length, self.vocab_size = num_steps, row_length, vocab_size

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> TokenBatch:
        places = torch.arange(self.row_length)[None]
        tokens = torch.randint(self.vocab_size, places.shape, generator=torch.Generator().manual_seed(step))
        return TokenBatch(tokens, tokens, places % DOCUMENT_TOKENS, places // DOCUMENT_TOKENS)


def train(
    size: LlamaSize,
    codebook_size: int,
    recomputed: bool,
    num_steps: int,
    row_length: int,
    adapters: LowRankAdapters | None = None,
) -> None:
    from lightning.pytorch import Trainer

    module = LMModule(
        TextToSpeech(ByteTokenizer(), codebook_size),
        size,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-4, fused=True),
        adapters=adapters,
        recompute_activations=recomputed,
    )
    rows = Rows(num_steps, row_length, module.token_space.vocab_size)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=num_steps,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(rows, batch_size=None))


def planned(case: str, row_length: int) -> MemoryPlan:
    size, codebook_size, recomputed = CASES[case]
    vocab_size = TextToSpeech(ByteTokenizer(), codebook_size).token_space.vocab_size
    place = Hardware("cpu", 1, 1, 1, is_sharded=False, is_half=False, row_length=row_length)
    return memory_plan(size, vocab_size, place, recomputed)


def resident_bytes(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def measured(case: str, num_steps: int, row_length: int) -> int:
    """Bytes by which this process grew at the peak of training."""
    train(LlamaSize(hidden_size=32, intermediate_size=48, num_layers=1, num_heads=2), 16, False, 2, 64)
    gc.collect()
    CLEAR_REFS.write_text("5")  # resets the high-water mark (Linux)
    before = resident_bytes("VmRSS")
    train(*CASES[case], num_steps, row_length)
    return resident_bytes("VmHWM") - before


def compared(case: str, given: argparse.Namespace) -> dict[str, object]:
    """Run the case in its own process and compare it with the plan."""
    command = [sys.executable, "-m", "benchmarks.lm_memory", "--case", case, "--num_steps", str(given.num_steps)]
    command += ["--row_length", str(given.row_length), "--num_threads", str(given.num_threads)]
    done = subprocess.run(command, env={**os.environ, **KEPT_BLOCKS}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Expected the training of {case} to end well, but got:\n{done.stderr[-2000:]}")
    bytes_measured = int(done.stdout.split()[-1])
    plan = planned(case, given.row_length)
    size, codebook_size, _ = CASES[case]
    vocab_size = TextToSpeech(ByteTokenizer(), codebook_size).token_space.vocab_size
    return {
        "parameters": num_parameters(size, vocab_size),
        "planned_megabytes": round(plan.total / 1e6),
        "measured_megabytes": round(bytes_measured / 1e6),
        "planned_over_measured": round(plan.total / bytes_measured, 3),
        "parts_megabytes": {name: round(value / 1e6) for name, value in vars(plan).items()},
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--case", choices=CASES, help="measure in this process and print bytes")
    parser.add_argument("--row_length", type=int, default=2048)
    parser.add_argument("--num_steps", type=int, default=2)
    parser.add_argument("--num_threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.num_threads)
    if given.case:
        print(measured(given.case, given.num_steps, given.row_length))
        return
    result = {case: compared(case, given) for case in given.cases} | {
        "row_length": given.row_length,
        **machine(),
    }
    report(result, given.json)


if __name__ == "__main__":
    main()
