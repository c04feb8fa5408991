"""The Triton kernel against convolutions, on the CPU in Triton's interpreter: run as a program by test_snake.py.

    TRITON_INTERPRET=1 python -m tests.snake_interpreted
"""

import torch

from modules.codec.activations import NUM_TAPS, by_convolution, kaiser_sinc_filter
from modules.codec.snake_kernel import MAX_LANES, SPAN, fused_snake

# Samples and lengths. Chunks are 16 samples, blocks at most 2,048.
CASES: tuple[tuple[int, tuple[int, ...] | None], ...] = (
    (1, None),
    (2, (2, 1)),
    (37, None),
    (64, (64, 3)),
    (100, (1, 0, 17, 16, 15, 33, 99)),
    (MAX_LANES * SPAN + 20, (MAX_LANES * SPAN + 1, MAX_LANES * SPAN - 1)),
)


def gradients(
    form, dtype: torch.dtype, num_samples: int, lengths: tuple[int, ...] | None, beyond: float
) -> list[torch.Tensor]:
    """Output and the gradients of x, alpha and beta, float64; `beyond` is what stands beyond the lengths."""
    generator = torch.Generator().manual_seed(num_samples)
    batch_size = 1 if lengths is None else len(lengths)
    x_BCT = 2 * torch.randn(batch_size, 2, num_samples, generator=generator)
    weight_BCT = torch.randn(batch_size, 2, num_samples, generator=generator)
    alpha_C, beta_C = torch.tensor([0.9, -0.5]), torch.tensor([-0.4, 0.6])
    lengths_B = None if lengths is None else torch.tensor(lengths)
    for item, length in enumerate(lengths or ()):
        x_BCT[item, :, length:] = beyond
    x_BCT, weight_BCT = x_BCT.bfloat16().to(dtype), weight_BCT.bfloat16().to(dtype)
    leaves = [leaf.requires_grad_() for leaf in (x_BCT, alpha_C, beta_C)]
    y_BCT = form(*leaves, lengths_B)
    assert y_BCT.dtype == dtype
    return [tensor.double() for tensor in (y_BCT.detach(), *torch.autograd.grad(y_BCT, leaves, weight_BCT))]


def convolution(x_BCT, alpha_C, beta_C, lengths_B):
    taps_K = kaiser_sinc_filter(0.25, 0.3, NUM_TAPS)
    return by_convolution(x_BCT, alpha_C, beta_C, taps_K, lengths_B)


def main() -> None:
    for num_samples, lengths in CASES:
        expected = gradients(convolution, torch.float32, num_samples, lengths, beyond=0)
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
            given = gradients(fused_snake, dtype, num_samples, lengths, beyond=torch.nan)
            for name, mine, reference in zip(("y", "x", "alpha", "beta"), given, expected, strict=True):
                scale = float(reference.abs().max().clamp(min=1))
                message = f"{name}, {num_samples} samples, lengths {lengths}, {dtype}"
                torch.testing.assert_close(
                    mine, reference, atol=tolerance * scale, rtol=0, msg=lambda text, at=message: f"{at}: {text}"
                )
    print(len(CASES), "cases are equal")


if __name__ == "__main__":
    main()
