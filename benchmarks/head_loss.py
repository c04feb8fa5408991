"""Head loss: ours against cross entropy over whole logits, in one process, alternating.

    python -m benchmarks.head_loss [--num_tokens 1024] [--hidden_size 256] [--vocab_size 193800] [--mixed] [--json FILE]

Loss and gradients are compared before timing. Prints medians and their ratio, the peak increase of the resident set
(CUDA: of allocated memory), versions and machine. Two thirds of the tokens carry loss, as in speech with its text.
"""

import gc
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.scaffold import machine, median_seconds, options, report
from modules.lm.loss import chosen_chunk_size, linear_cross_entropy

Inputs = tuple[Tensor, Tensor, Tensor]
CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def inputs(num_tokens: int, hidden_size: int, vocab_size: int, device: str, dtype: torch.dtype) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    hidden_NC = torch.randn(num_tokens, hidden_size, generator=generator)
    weight_VC = torch.randn(vocab_size, hidden_size, generator=generator) * hidden_size**-0.5
    labels_N = torch.randint(vocab_size, (num_tokens,), generator=generator)
    labels_N[: num_tokens // 3] = -100
    hidden_NC, weight_VC = (tensor.to(device, dtype).requires_grad_() for tensor in (hidden_NC, weight_VC))
    return hidden_NC, weight_VC, labels_N.to(device)


def naive(hidden_NC: Tensor, weight_VC: Tensor, labels_N: Tensor) -> Tensor:
    """Equal to transformers' ForCausalLMLoss: whole logits in float32, including ignored rows."""
    return F.cross_entropy((hidden_NC @ weight_VC.T).float(), labels_N, reduction="mean")


def ours(hidden_NC: Tensor, weight_VC: Tensor, labels_N: Tensor) -> Tensor:
    loss = linear_cross_entropy(hidden_NC, weight_VC, labels_N)
    return loss.total / loss.num_targets


def gradients(loss: Callable[..., Tensor], given: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    value = loss(*given)
    return value.detach(), *torch.autograd.grad(value, given[:2])


def autocasted(loss: Callable[..., Tensor], device: str) -> Callable[..., Tensor]:
    @wraps(loss)
    def mixed(*given: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return loss(*given)

    return mixed


def resident_bytes(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def peak_bytes(loss: Callable[..., Tensor], given: Inputs) -> int:
    """Peak memory of a step without its inputs, including gradients."""
    gc.collect()
    if given[0].is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        gradients(loss, given)
        return torch.cuda.max_memory_allocated() - before
    CLEAR_REFS.write_text("5")  # resets the high-water mark (Linux)
    before = resident_bytes("VmRSS")
    gradients(loss, given)
    return resident_bytes("VmHWM") - before


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--num_tokens", type=int, default=1024)
    parser.add_argument("--hidden_size", type=int, default=256)
    parser.add_argument("--vocab_size", type=int, default=193_800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--mixed", action="store_true", help="float32 tensors under autocast, as in bf16-mixed")
    given = parser.parse_args()
    torch.set_num_threads(given.num_threads)
    dtype = torch.bfloat16 if given.device == "cuda" and not given.mixed else torch.float32
    losses = [autocasted(loss, given.device) if given.mixed else loss for loss in (naive, ours)]
    tensors = inputs(given.num_tokens, given.hidden_size, given.vocab_size, given.device, dtype)
    tolerance = 2e-2 if given.mixed or dtype == torch.bfloat16 else 1e-5
    for name, expected, actual in zip(
        ("loss", "hidden gradient", "weight gradient"), *(gradients(loss, tensors) for loss in losses), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
        print(f"{name}: equal to {tolerance:g} of the largest")
    del expected, actual
    peaks = {loss.__name__: peak_bytes(loss, tensors) for loss in losses}
    medians = median_seconds({loss.__name__: partial(gradients, loss, tensors) for loss in losses}, given.rounds)
    on_cpu = given.device == "cpu"
    result = {
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "time_ratio": round(medians["ours"] / medians["naive"], 3),
        "peak_megabytes": {name: round(value / 1e6) for name, value in peaks.items()},
        "peak_ratio": round(peaks["ours"] / peaks["naive"], 3),
        "mixed": given.mixed,
        "num_tokens": given.num_tokens,
        "hidden_size": given.hidden_size,
        "vocab_size": given.vocab_size,
        "chunk_size": chosen_chunk_size(given.vocab_size, on_cpu),
        "rounds": given.rounds,
        "num_threads": given.num_threads,
        **machine(on_gpu=not on_cpu),
    }
    report(result, given.json)


if __name__ == "__main__":
    main()
