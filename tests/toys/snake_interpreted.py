"""The Triton kernel against convolutions, on the CPU in Triton's interpreter: run as a program by test_snake.py.

TRITON_INTERPRET=1 python -m tests.toys.snake_interpreted
"""

import warnings

import torch

from modules.codec.parts import snake_cuda as fused_snake_module
from modules.codec.parts.snake import NUM_TAPS, by_convolution, kaiser_sinc_filter
from modules.codec.parts.snake_cuda import MAX_LANES, SPAN, fused_snake

# Channels, samples and lengths. A lane has 16 samples, a program at most 2,048.
CASES: tuple[tuple[int, int, tuple[int, ...] | None], ...] = (
    (1, 1, None),
    (1, 37, None),
    (2, 100, (1, 0, 17)),
    (1, 48, (15, 32)),
    (1, MAX_LANES * SPAN + 20, (MAX_LANES * SPAN + 1,)),
)


def gradients(
    form, dtype: torch.dtype, num_channels: int, num_samples: int, lengths: tuple[int, ...] | None, beyond: float
) -> list[torch.Tensor]:
    """Output and the gradients of x, alpha and beta, float64; `beyond` is the value of samples beyond the lengths."""
    generator = torch.Generator().manual_seed(num_samples)
    shape = 1 if lengths is None else len(lengths), num_channels, num_samples
    x_BCT, weight_BCT = (torch.randn(shape, generator=generator).bfloat16().to(dtype) for _ in range(2))
    alpha_C, beta_C = torch.tensor([0.9, -0.5])[:num_channels], torch.tensor([-0.4, 0.6])[:num_channels]
    for item, length in enumerate(lengths or ()):
        x_BCT[item, :, length:] = beyond
    leaves = [leaf.requires_grad_() for leaf in (2 * x_BCT, alpha_C, beta_C)]
    y_BCT = form(*leaves, None if lengths is None else torch.tensor(lengths))
    assert y_BCT.dtype == dtype
    return [tensor.double() for tensor in (y_BCT.detach(), *torch.autograd.grad(y_BCT, leaves, weight_BCT))]


def convolution(x_BCT, alpha_C, beta_C, lengths_B):
    taps_K = kaiser_sinc_filter(0.25, 0.3, NUM_TAPS)
    return by_convolution(x_BCT, alpha_C, beta_C, taps_K, lengths_B)


def main() -> None:
    for case in CASES:
        expected = gradients(convolution, torch.float32, *case, beyond=0)
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
            if dtype == torch.bfloat16 and case[0] == 1:
                continue
            given = gradients(fused_snake, dtype, *case, beyond=torch.nan)
            for name, mine, reference in zip(("y", "x", "alpha", "beta"), given, expected, strict=True):
                off = float((mine - reference).abs().max() / reference.abs().max().clamp(min=1))
                assert off < tolerance, f"{name} is off by {off:.1e} of the largest: case {case}, {dtype}"
    print(len(CASES), "cases are equal")
    check_the_trial()


def check_the_trial() -> None:
    """A right kernel passes with gradients and in inference mode; one with errors, or that cannot be launched, is
    detected before it is used."""
    place = torch.device("cpu"), torch.float32
    for mode in (torch.inference_mode, torch.enable_grad):
        fused_snake_module.kernel_agrees.cache_clear()
        with mode():
            assert fused_snake_module.kernel_agrees(*place)
            x_BCT, alpha_C = torch.randn(1, 2, 50), torch.zeros(2)
            torch.testing.assert_close(
                fused_snake(x_BCT, alpha_C, alpha_C), convolution(x_BCT, alpha_C, alpha_C, None), rtol=0, atol=1e-5
            )
    launch_settings = fused_snake_module.launch_settings
    for broken in (lambda *_: ((1, 1), launch_settings(*_)[1]), lambda *_: 1 / 0):
        fused_snake_module.launch_settings = broken
        fused_snake_module.kernel_agrees.cache_clear()
        with warnings.catch_warnings(record=True) as caught:
            assert not fused_snake_module.kernel_agrees(*place)
        assert "Convolutions take its place" in str(caught[0].message)
    print("a broken kernel is found out")


if __name__ == "__main__":
    main()
