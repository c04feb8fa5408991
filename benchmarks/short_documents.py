"""Attention of short documents in bfloat16 on a CPU: plain products against torch's fused kernel, alternating.

    python -m benchmarks.short_documents [--rounds 20] [--num_threads 1] [--json FILE]

Forward and backward pass under autocast of 12 documents of one length with 4 heads of 64 channels; then a training step
of configs/voice/open/lm_model.yaml on 4 rows of 512 tokens, of three documents each. Outputs and gradients of the
attention are compared before timing. Above SHORT_DOCUMENT of modules/lm/attention.py documents take the fused kernel.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor

from benchmarks.precision import step_of
from benchmarks.scaffold import machine, median_seconds, options, report
from datamodules.packing import token_batch
from modules.lm import attention
from modules.lm.network import LlamaSize, SpeechLanguageModel, build_llama

MODEL = Path(__file__).resolve().parent.parent / "configs/voice/open/lm_model.yaml"
LENGTHS = (50, 100, 150, 256, 384, 512)
NUM_DOCUMENTS, NUM_HEADS, HEAD_SIZE, VOCAB_SIZE = 12, 4, 64, 4360
WAYS = {"fused": 0, "plain": 10**9}  # values of SHORT_DOCUMENT
TOLERANCE = 2e-2  # of the norm


def by_way(call: Callable[[], list[Tensor]], way: str) -> list[Tensor]:
    attention.SHORT_DOCUMENT = WAYS[way]
    return call()


def attended(length: int) -> Callable[[], list[Tensor]]:
    """A call that returns the output and the gradients of documents of one length."""
    torch.manual_seed(0)
    num_tokens = NUM_DOCUMENTS * length
    inputs = [torch.randn(1, NUM_HEADS, num_tokens, HEAD_SIZE, requires_grad=True) for _ in range(3)]
    segments = attention.find_segments(torch.arange(NUM_DOCUMENTS).repeat_interleave(length)[None])

    def call() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            output, _ = attention.packed_attention(torch.nn.Module(), *inputs, None, segments=segments)
        return [output, *torch.autograd.grad(output.float().square().sum(), inputs)]

    return call


def step(length: int) -> Callable[[], list[Tensor]]:
    """A call that makes one update of the voice's model."""
    torch.manual_seed(0)
    size = LlamaSize(**yaml.safe_load(MODEL.read_text())["init_args"]["size"])
    network = SpeechLanguageModel(build_llama(size, VOCAB_SIZE)).train()
    documents = torch.randint(VOCAB_SIZE, (NUM_DOCUMENTS, length)).tolist()
    batch = token_batch([[(one, 0) for one in documents[row::4]] for row in range(4)], 512)

    def loss() -> Tensor:
        found = network(batch)
        return found.total / found.num_targets

    update = step_of(network.parameters(), loss, mixed=True)
    return lambda: [update()]


def check_equal(call: Callable[[], list[Tensor]]) -> None:
    for actual, expected in zip(by_way(call, "plain"), by_way(call, "fused"), strict=True):
        difference = float((actual - expected).detach().norm() / expected.detach().norm())
        if not difference < TOLERANCE:
            raise AssertionError(
                f"Expected equal outputs and gradients, but they differ by {difference:.2g} of the norm."
            )


def measure(rounds: int) -> dict[str, dict[str, float]]:
    calls = {f"attention, {length} tokens": attended(length) for length in LENGTHS}
    for call in calls.values():
        check_equal(call)
    calls["training step, 150 tokens"] = step(150)
    result = {}
    for name, call in calls.items():
        ways = {way: lambda way=way, call=call: by_way(call, way) for way in WAYS}
        median_seconds(ways, 2)
        seconds = median_seconds(ways, rounds)
        result[name] = {way: round(1000 * value, 2) for way, value in seconds.items()}
        result[name]["plain_over_fused"] = round(seconds["plain"] / seconds["fused"], 3)
    return result


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--num_threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.num_threads)
    torch.set_flush_denormal(True)  # as run.py does
    about = {"limit": attention.SHORT_DOCUMENT, "rounds": given.rounds, "num_threads": given.num_threads}
    report({"milliseconds": measure(given.rounds), **about, **machine("transformers")}, given.json)


if __name__ == "__main__":
    main()
