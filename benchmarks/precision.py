"""bfloat16 against float32 on this CPU: the demo's training steps and its sampling, in one process, alternating.

    python -m benchmarks.precision [--rounds 20] [--num_threads 2] [--clock wall] [--json FILE]

A training step is forward, backward, clipping and AdamW, without a Trainer: of the codec of configs/demo on 8 crops of
1 s without discriminators, and of its language model on a row of 512 tokens. bf16-mixed computes both under autocast,
as Lightning does. Sampling is with weights of one dtype: 64 codes of 1 row and of 16 rows. Inputs and
weights are random.

Prints medians, and for each work how many times faster bfloat16 is. modules/precision.py decides by these numbers.
With `--clock cpu`, times are those of the process on all its threads, which programs beside it affect less.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn

from benchmarks.lm_overhead import built
from benchmarks.scaffold import machine, median_seconds, options, report
from datamodules.packing import token_batch
from modules.api import Prompt, SamplingSettings
from modules.lm.network import LlamaSize, SpeechLanguageModel, build_llama
from modules.lm.sampling.sampler import KVCacheSampler
from modules.precision import automatic_precision, inference_dtype

DEMO = Path(__file__).resolve().parent.parent / "configs/demo"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NUM_CODES, WARM_UP = 64, 2


def configured(name: str) -> dict:
    """`init_args` of a part of the demo."""
    return yaml.safe_load((DEMO / name).read_text())["init_args"]


def step_of(weights: Iterable[nn.Parameter], loss: Callable[[], torch.Tensor], mixed: bool) -> Callable[[], None]:
    """A call that makes one update. Each has weights of its own."""
    kept = list(weights)
    optimizer = torch.optim.AdamW(kept, lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(kept, 1.0)
        optimizer.step()

    return step


def codec_step(mixed: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    config = configured("codec_model.yaml")
    generator, mel_loss = built(config["generator"]).train(), built(config["reconstruction_loss"])
    audio_BT, num_samples_B = 0.1 * torch.randn(8, 16000), torch.full((8,), 16000)

    def loss() -> torch.Tensor:
        return mel_loss(generator(audio_BT, num_samples_B, None).audio_BT, audio_BT, num_samples_B)

    return step_of(generator.parameters(), loss, mixed)


def new_llama() -> tuple[object, SpeechLanguageModel]:
    """The demo's prompt format and its language model with random weights."""
    torch.manual_seed(0)
    prompt_format = built(yaml.safe_load((DEMO / "prompt_format.yaml").read_text()))
    size = LlamaSize(**configured("lm_model.yaml")["size"])
    return prompt_format, SpeechLanguageModel(build_llama(size, prompt_format.token_space.vocab_size))


def lm_step(mixed: bool) -> Callable[[], None]:
    prompt_format, network = new_llama()
    codes_S = np.random.default_rng(0).integers(0, prompt_format.codebook_size, 100)
    document = prompt_format.example_tokens("four two seven", codes_S)
    batch = token_batch([[document] * (512 // len(document[0]))], 512)

    def loss() -> torch.Tensor:
        found = network(batch)
        return found.total / found.num_targets

    return step_of(network.train().parameters(), loss, mixed)


def sampling(num_rows: int, dtype: torch.dtype) -> Callable[[], object]:
    prompt_format, network = new_llama()
    sampler = KVCacheSampler(network.to(dtype).eval().llama, prompt_format, SamplingSettings())
    prompt = Prompt("prompt", "four two seven")
    return lambda: sampler.extend(sampler.start([prompt]), num_rows, NUM_CODES, list(range(num_rows)))


def works() -> dict[str, dict[str, Callable[[], object]]]:
    """The calls to compare, by work and precision."""
    return {
        "codec training step": {name: codec_step(name == "bf16") for name in DTYPES},
        "lm training step": {name: lm_step(name == "bf16") for name in DTYPES},
        "lm sampling, 1 row": {name: sampling(1, dtype) for name, dtype in DTYPES.items()},
        "lm sampling, 16 rows": {name: sampling(16, dtype) for name, dtype in DTYPES.items()},
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--num_threads", type=int, default=2)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    given = parser.parse_args()
    torch.set_num_threads(given.num_threads)
    torch.set_flush_denormal(True)  # as run.py does
    result = {}
    for work, calls in works().items():
        median_seconds(calls, WARM_UP)
        seconds = median_seconds(calls, given.rounds, CLOCKS[given.clock])
        result[work] = {name: round(value, 4) for name, value in seconds.items()}
        result[work]["bf16_is_faster_by"] = round(seconds["fp32"] / seconds["bf16"], 3)
    about = {
        "automatic_precision": ": ".join(automatic_precision("cpu")),
        "inference_dtype": ": ".join(map(str, inference_dtype("cpu"))),
        "cpu": {name: value for name, value in torch.cpu.get_capabilities().items() if "bf16" in name or "amx" in name}
        if hasattr(torch.cpu, "get_capabilities")
        else {},
        **vars(given) | {"json": None},
    }
    report(result | {"about": about | machine("transformers")}, given.json)


if __name__ == "__main__":
    main()
