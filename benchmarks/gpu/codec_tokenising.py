"""Tokenising on one GPU: hours of audio per hour for X-codec2's full size, goal 700 on an H200.

    python -m benchmarks.gpu.codec_tokenising [--audio_seconds 6000] [--batch_seconds 400] [--rounds 3]

Weights are random, in the published architecture. Lengths are distributed like LJSpeech's; batches are those of
`predict` with `evaluation_batch_seconds`. Time is measured from audio in host memory to codes in host memory, without
reading and decoding files. For each precision: useful audio per second, and the share of codes equal to transformers'
own in float32, file by file, over --num_compared files. The goal counts if that share is at least 99.99%. Results:
studies/codec_speed/gpu.json.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from benchmarks.codec_inference import SAMPLE_RATE, SPREAD, same_weights, share_equal
from benchmarks.scaffold import machine, median_seconds, options, report, seconds_of
from datamodules.shards.order import like_lengths_together
from modules.batches import pad_rows
from modules.codec.generator import CodecGenerator
from tests.toys.codec_references import HOP, noise_items, reference_inputs

GOAL, LEAST_EQUAL = 700, 0.9999
PRECISIONS = "float32", "tf32", "bfloat16"


def utterances(audio_seconds: float, longest_seconds: float) -> list[Tensor]:
    lengths: list[int] = []
    generator = np.random.default_rng(0)
    while sum(lengths) < audio_seconds * SAMPLE_RATE:
        part = np.interp(generator.random() * (len(SPREAD) - 1), range(len(SPREAD)), SPREAD)
        lengths.append(round(part * longest_seconds * SAMPLE_RATE))
    audio_T = noise_items(max(lengths))[0][0]
    return [audio_T[-length:].clone() for length in lengths]


def batches(items: list[Tensor], batch_seconds: float) -> list[tuple[list[int], Tensor, Tensor]]:
    """Return rows, audio and lengths of each batch, as the loader does."""
    lengths = np.array([len(item_T) for item_T in items])
    rows = like_lengths_together(lengths, 1024, seed=0, most_steps=batch_seconds * SAMPLE_RATE)
    return [(places.tolist(), *pad_rows([items[place] for place in places])) for places in rows]


@contextmanager
def precision(name: str, device: str) -> Iterator[None]:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    with torch.autocast(device, torch.bfloat16) if name == "bfloat16" else nullcontext():
        yield


def tokenise(codec: CodecGenerator, given: list[tuple[list[int], Tensor, Tensor]], device: str) -> dict[int, Tensor]:
    """Return the codes of every row, on the host."""
    codes = {}
    for rows, audio_BT, num_samples_B in given:
        made = codec.encode(audio_BT.to(device, non_blocking=True), num_samples_B.to(device, non_blocking=True))
        codes_BS, num_codes_B = (tensor.cpu() for tensor in made)
        codes |= {row: codes_S[:n] for row, codes_S, n in zip(rows, codes_BS, num_codes_B.tolist(), strict=True)}
    return codes


def reference(model: nn.Module, items: list[Tensor], device: str) -> list[Tensor]:
    codes = []
    for item_T in items:
        inputs = {name: value.to(device) for name, value in reference_inputs(item_T, HOP // 2).items()}
        codes.append(model.encode(**inputs).audio_codes[0, 0].long().cpu())
    return codes


def measure(codec: CodecGenerator, given: argparse.Namespace, items: list[Tensor], right: list[Tensor]) -> dict:
    planned = batches(items, given.batch_seconds)
    num_seconds = sum(map(len, items)) / SAMPLE_RATE
    first, codes = seconds_of(lambda: tokenise(codec, planned, given.device))
    equal = share_equal(right, [codes[row] for row in range(len(right))])
    seconds = median_seconds({"ours": lambda: tokenise(codec, planned, given.device)}, given.rounds)["ours"]
    return {
        "times_real_time": round(num_seconds / seconds, 1),
        "first_pass_seconds": round(first, 2),
        "codes_equal": equal,
        "reaches_goal": bool(num_seconds / seconds >= GOAL and equal >= LEAST_EQUAL),
    }


@torch.inference_mode()
def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--audio_seconds", type=float, default=6000.0)
    parser.add_argument("--longest_seconds", type=float, default=10.0)
    parser.add_argument("--batch_seconds", type=float, default=400.0)
    parser.add_argument("--num_compared", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model, codec = same_weights(given.scale)
    model, codec = model.to(given.device), codec.to(given.device)
    items = utterances(given.audio_seconds, given.longest_seconds)
    with precision("float32", given.device):
        right = reference(model, items[: given.num_compared], given.device)
    del model
    result = {}
    for name in given.precisions:
        with precision(name, given.device):
            result[name] = measure(codec, given, items, right)
    on_gpu = given.device != "cpu"
    about = {
        "goal": GOAL,
        **{name: value for name, value in vars(given).items() if name not in ("device", "precisions", "json")},
        "peak_gigabytes": round(torch.cuda.max_memory_allocated() / 1e9, 1) if on_gpu else None,
        "compiled": False,
        **machine("transformers", on_gpu=on_gpu),
    }
    report(result | about, given.json)


if __name__ == "__main__":
    main()
