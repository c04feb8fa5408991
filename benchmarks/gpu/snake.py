"""The Triton kernel of the alias-free snake on one GPU: accuracy, and speed relative to a copy. Takes two minutes.

    python -m benchmarks.gpu.snake [--batch_size 8] [--seconds 6] [--rounds 50] > snake.json

At the first layers of X-codec2's acoustic encoder, with lengths, in float32 and bfloat16: error against convolutions in
float32; median milliseconds of the kernel, of convolutions and of torch.compile of the sums over phases; the kernel's
share of the bandwidth of a copy, counting two accesses per sample forward and three backward. Results:
studies/codec_speed/gpu.json.
"""

import statistics
from collections.abc import Callable

import torch
import torch._functorch.config
from torch import Tensor

from benchmarks.scaffold import machine, options, report
from modules.codec.parts.snake import NUM_TAPS, by_convolution, by_phases, kaiser_sinc_filter
from modules.codec.parts.snake_cuda import fused_snake

LAYERS = ((48, 1), (96, 2), (384, 16), (768, 64))  # channels, and downsampling factor relative to 16 kHz audio
DTYPES = {"float32": (torch.float32, 1e-5), "bfloat16": (torch.bfloat16, 2e-2)}


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    """Median over rounds, each timed with its own events, after three warm-up calls."""
    for _ in range(3):
        work()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    for start, end in events:
        start.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events)


def gradients(form: Callable[..., Tensor], leaves: list[Tensor], weight_BCT: Tensor, rest: tuple) -> list[Tensor]:
    y_BCT = form(*leaves, *rest)
    return [y_BCT.detach(), *torch.autograd.grad(y_BCT, leaves, weight_BCT.to(y_BCT.dtype))]


def largest_errors(leaves: list[Tensor], weight_BCT: Tensor, lengths_B: Tensor, taps_K: Tensor) -> dict[str, float]:
    """Errors of the output and each gradient, relative to the largest value; the reference is float32."""
    exact = [leaf.detach().float().requires_grad_() for leaf in leaves]
    expected = gradients(by_convolution, exact, weight_BCT.float(), (taps_K, lengths_B))
    given = gradients(fused_snake, leaves, weight_BCT, (lengths_B,))
    return {
        name: float((mine.float() - reference).abs().max() / reference.abs().max())
        for name, mine, reference in zip(("y", "x", "alpha", "beta"), given, expected, strict=True)
    }


def measured(channels: int, num_samples: int, batch_size: int, dtype: torch.dtype, rounds: int) -> dict:
    torch.manual_seed(0)
    x_BCT, weight_BCT = (torch.randn(batch_size, channels, num_samples, device="cuda").to(dtype) for _ in range(2))
    # Weights in the input's dtype, as convolutions require.
    alpha_C, beta_C = (0.3 * torch.randn(channels, device="cuda").to(dtype) for _ in range(2))
    leaves = [leaf.requires_grad_() for leaf in (x_BCT, alpha_C, beta_C)]
    lengths_B = torch.full((batch_size,), num_samples, device="cuda")
    lengths_B[1::2] -= num_samples // 7
    taps_K = kaiser_sinc_filter(0.25, 0.3, NUM_TAPS).cuda()
    errors = largest_errors(leaves, weight_BCT, lengths_B, taps_K)
    copy = milliseconds(lambda: weight_BCT.copy_(x_BCT.detach()), rounds)
    result: dict = {"errors": errors, "copy_ms": copy}
    forms = {
        "kernel": (fused_snake, (lengths_B,)),
        "eager": (by_convolution, (taps_K,)),  # as in its authors' code, which has no lengths
        "compile": (torch.compile(by_phases), (taps_K, lengths_B)),
    }
    for name, (form, rest) in forms.items():
        with torch.no_grad():
            forward = milliseconds(lambda form=form, rest=rest: form(*leaves, *rest), rounds)
        y_BCT = form(*leaves, *rest)
        backward = milliseconds(lambda y=y_BCT: torch.autograd.grad(y, leaves, weight_BCT, retain_graph=True), rounds)
        result[name] = {"forward_ms": forward, "backward_ms": backward}
    kernel = result["kernel"]
    result["share_of_copy_bandwidth"] = {
        "forward": copy / kernel["forward_ms"],
        "backward": 1.5 * copy / kernel["backward_ms"],
    }
    result["speed_ratio"] = {
        peer: {way: result[peer][f"{way}_ms"] / kernel[f"{way}_ms"] for way in ("forward", "backward")}
        for peer in ("eager", "compile")
    }
    return result


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=50)
    given = parser.parse_args()
    # Convolutions in TF32 are too inaccurate as a reference.
    torch.backends.cudnn.allow_tf32 = False
    torch._functorch.config.donated_buffer = False  # backward passes are timed with `retain_graph`
    results: dict[str, dict] = {}
    for name, (dtype, tolerance) in DTYPES.items():
        for channels, reduction in LAYERS:
            num_samples = round(given.seconds * 16_000) // reduction
            layer = measured(channels, num_samples, given.batch_size, dtype, given.rounds)
            layer["right"] = max(layer["errors"].values()) < tolerance
            results[f"{name}, {channels} x {num_samples}"] = layer
    settings = {name: value for name, value in vars(given).items() if name != "json"}
    report({"layers": results, **settings, **machine("triton", on_gpu=True)}, given.json)


if __name__ == "__main__":
    main()
