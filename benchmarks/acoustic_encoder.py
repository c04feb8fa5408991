"""X-codec2's acoustic encoder: activations as compiled sums over phases against plain ones, in one process,
alternating.

    python -m benchmarks.acoustic_encoder [--batch_size 1] [--seconds 1] [--rounds 5] [--small]
        [--sides plain compiled_activations whole_plain whole_phases]

Sides: `plain` is eager; `compiled_activations` is the encoder's option; `whole_plain` and `whole_phases` are
torch.compile of the whole encoder with convolutions and with sums (many minutes to compile at full size). Output and
all gradients are compared before timing. Prints seconds of the first calls (compilation), medians of forward and of
forward and backward, their ratios to `plain`, versions and machine.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.scaffold import machine, median_seconds, options, report, seconds_of
from modules.codec.parts.acoustic_encoder import AcousticEncoder
from modules.codec.parts.alias_free_snake import AliasFreeSnake
from modules.codec.parts.snake import by_convolution

SAMPLE_RATE = 16_000
SIDES = ("plain", "compiled_activations", "whole_plain", "whole_phases")


class ConvolvedSnake(AliasFreeSnake):
    """Always uses convolutions, including inside torch.compile."""

    def forward(self, x_BCT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        return by_convolution(x_BCT, self.alpha, self.beta, self.taps, lengths_B)


def encoder_of(side: str, small: bool) -> AcousticEncoder:
    sizes = {"base_channels": 8, "channels": 64} if small else {}
    torch.manual_seed(0)
    encoder = AcousticEncoder(SAMPLE_RATE, **sizes, compile_activations=side == "compiled_activations")
    for module in encoder.modules():
        if isinstance(module, AliasFreeSnake):
            torch.nn.init.normal_(module.alpha, std=0.3)
            torch.nn.init.normal_(module.beta, std=0.3)
            if side in ("plain", "whole_plain"):
                module.__class__ = ConvolvedSnake
    if side.startswith("whole"):
        encoder.compile()
    return encoder


def forward(encoder: AcousticEncoder, audio: tuple[Tensor, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [encoder(*audio).latent_BSC]


def forward_and_backward(encoder: AcousticEncoder, audio: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Return the output and the gradients of all weights."""
    latent_BSC = encoder(*audio).latent_BSC
    return [latent_BSC.detach(), *torch.autograd.grad(latent_BSC.square().mean(), list(encoder.parameters()))]


def first_calls(
    encoders: dict[str, AcousticEncoder], works: tuple[Callable[..., list[Tensor]], ...], audio: tuple[Tensor, Tensor]
) -> dict[str, float]:
    """Seconds of the first call of each work, summed. Raises AssertionError if a side differs by 1e-4."""
    seconds, expected = dict.fromkeys(encoders, 0.0), {}
    for name, encoder in encoders.items():
        for work in works:
            taken, given = seconds_of(partial(work, encoder, audio))
            seconds[name] += taken
            for mine, reference in zip(given, expected.setdefault(work, given), strict=True):
                off = float((mine - reference).abs().max() / reference.abs().max())
                assert off < 1e-4, f"{name} is off by {off:.1e} of the largest"
    return seconds


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num_threads", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="a sixth of the channels")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES[:2])
    given = parser.parse_args()
    torch.set_num_threads(given.num_threads)
    encoders = {side: encoder_of(side, given.small) for side in dict.fromkeys(("plain", *given.sides))}
    num_samples = round(given.seconds * SAMPLE_RATE)
    audio = torch.randn(given.batch_size, num_samples), torch.full((given.batch_size,), num_samples)
    works = forward, forward_and_backward
    first_seconds = first_calls(encoders, works, audio)
    result: dict = {"first_call_seconds": {name: round(value, 1) for name, value in first_seconds.items()}}
    for work in works:
        medians = median_seconds(
            {name: partial(work, encoder, audio) for name, encoder in encoders.items()}, given.rounds
        )
        result[work.__name__] = {
            "seconds": {name: round(value, 3) for name, value in medians.items()},
            "speed_ratio": {name: round(medians["plain"] / value, 2) for name, value in medians.items()},
        }
    settings = {name: value for name, value in vars(given).items() if name != "json"}
    report(result | settings | machine(), given.json)


if __name__ == "__main__":
    main()
