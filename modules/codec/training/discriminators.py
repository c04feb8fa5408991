"""Discriminators: multi-period (HiFi-GAN, arXiv 2010.05646) and multi-resolution spectral (UnivNet, arXiv 2106.07889).

Each returns `DiscriminatorOutput`: one score map per sub-discriminator, and its hidden maps for feature matching.

Shapes: B batch, T samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from modules.codec.parts.spectral import CentredMagnitude, Magnitude


@dataclass
class DiscriminatorOutput:
    """`scores`: one map per sub-discriminator. `features`: its hidden maps. `families`: the discriminator of an
    ensemble that each score belongs to; empty outside an ensemble."""

    scores: list[Tensor] = field(default_factory=list)
    features: list[list[Tensor]] = field(default_factory=list)
    families: list[str] = field(default_factory=list)


class _ConvolutionStack(nn.Module):
    """Weight-normalised 2-D convolutions; the last returns the score map, all others are features."""

    def __init__(self, layers: Sequence[nn.Conv2d], slope: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.slope = slope

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), self.slope)
            features.append(x)
        return self.layers[-1](x), features


class MultiPeriodDiscriminator(nn.Module):
    """Folds the waveform at each period into two dimensions.

    Args:
        periods: Samples per row.
        channels: Widths of the strided layers.
        output_kernel_size: Kernel size of the output layer; 2 in X-codec2 (and BigCodec).
    """

    family = "multi_period"

    def __init__(
        self,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        channels: Sequence[int] = (16, 64, 256, 512, 512),
        output_kernel_size: int = 3,
    ) -> None:
        super().__init__()
        self.periods = tuple(periods)
        self.stacks = nn.ModuleList(self._stack(channels, output_kernel_size) for _ in periods)

    @staticmethod
    def _stack(channels: Sequence[int], output_kernel_size: int) -> nn.Module:
        widths = [1, *channels]
        strides = [3] * (len(channels) - 1) + [1]
        layers = [
            nn.Conv2d(widths[i], widths[i + 1], (5, 1), (stride, 1), padding=(2, 0)) for i, stride in enumerate(strides)
        ]
        size = output_kernel_size
        output = nn.Conv2d(channels[-1], 1, (size, 1), padding=(size // 2, 0))
        return _ConvolutionStack([*layers, output], slope=0.1)

    def forward(self, audio_BT: Tensor) -> DiscriminatorOutput:
        output = DiscriminatorOutput()
        for period, stack in zip(self.periods, self.stacks, strict=True):
            padded = F.pad(audio_BT[:, None], (0, (-audio_BT.shape[-1]) % period), mode="reflect")
            score, features = stack(padded.view(padded.shape[0], 1, -1, period))
            output.scores.append(score)
            output.features.append(features)
        return output


class MultiResolutionDiscriminator(nn.Module):
    """Judges magnitude spectrograms of several resolutions. The hop is half the window.

    Args:
        fft_sizes: Windows, samples.
        channels: Widths of the layers; all but the last are strided.
        centred: Frames as in X-codec2, centred on multiples of the hop with reflect padding; otherwise zero padding and
            an even hop.
    """

    family = "multi_resolution"

    def __init__(
        self,
        fft_sizes: Sequence[int] = (78, 126, 206, 334, 542, 876, 1418, 2296),
        channels: Sequence[int] = (32, 64, 128, 256, 512),
        centred: bool = False,
    ) -> None:
        super().__init__()
        self.magnitudes = nn.ModuleList(
            CentredMagnitude(size, size // 2) if centred else Magnitude(size, size // 2 - (size // 2) % 2)
            for size in fft_sizes
        )
        self.stacks = nn.ModuleList(self._stack(channels) for _ in fft_sizes)

    @staticmethod
    def _stack(channels: Sequence[int]) -> nn.Module:
        widths = [1, *channels]
        layers = [
            nn.Conv2d(widths[i], widths[i + 1], 5, stride=2, padding=2)
            if i < len(channels) - 1
            else nn.Conv2d(widths[i], widths[i + 1], 3, padding=1)
            for i in range(len(channels))
        ]
        return _ConvolutionStack([*layers, nn.Conv2d(channels[-1], 1, 3, padding=1)], slope=0.2)

    def forward(self, audio_BT: Tensor) -> DiscriminatorOutput:
        output = DiscriminatorOutput()
        for magnitude, stack in zip(self.magnitudes, self.stacks, strict=True):
            score, features = stack(magnitude(audio_BT)[:, None])
            output.scores.append(score)
            output.features.append(features)
        return output


class DiscriminatorEnsemble(nn.Module):
    """Several discriminators of the same audio, combined. The `family` of each, or else its class name, names its
    losses in the log."""

    def __init__(self, discriminators: Sequence[nn.Module]) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(discriminators)
        self.families = [getattr(one, "family", type(one).__name__) for one in discriminators]

    def forward(self, audio_BT: Tensor) -> DiscriminatorOutput:
        output = DiscriminatorOutput()
        for discriminator, family in zip(self.discriminators, self.families, strict=True):
            one = discriminator(audio_BT)
            output.scores += one.scores
            output.features += one.features
            output.families += [family] * len(one.scores)
        return output


def discriminator_windows(
    real_BT: Tensor, fake_BT: Tensor, num_samples_B: Tensor, length: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Cut the same random window from both, (B, `length`) each, without padding; `length` 0: the whole batch.

    A window lies within its item's audio, at the same relative position as in a full-length item; an item shorter than
    the window is repeated to fill it.
    """
    num_samples = real_BT.shape[-1]
    length = min(length or num_samples, num_samples)
    room = num_samples - length
    start = int(torch.randint(room + 1, (), generator=torch.Generator().manual_seed(seed)))
    start_B = start * ((num_samples_B - length).clamp(min=0) + 1) // (room + 1)
    window_T = torch.arange(length, device=num_samples_B.device)
    index_BT = (start_B[:, None] + window_T) % num_samples_B.clamp(min=1)[:, None]
    return real_BT.gather(1, index_BT), fake_BT.gather(1, index_BT)


def check_discriminator(
    discriminator: nn.Module | None,
    optimizer: object | None,
    scheduler: object | None,
    start_step: int,
    family_weights: Mapping[str, float] | None,
) -> None:
    """Check the settings of a training with this discriminator, or of one without (None).

    Raises ValueError for a discriminator without an optimizer or the reverse, for a scheduler or start step without a
    discriminator, and for weights of families that the discriminator does not have.
    """
    if (discriminator is None) != (optimizer is None):
        given, missing = ("discriminator_optimizer", "discriminator")[:: 1 if discriminator is None else -1]
        raise ValueError(
            f"Expected `discriminator` and `discriminator_optimizer`, or null for both, but got only `{given}`: "
            f"`{missing}` is null."
        )
    if discriminator is None and (start_step or scheduler):
        raise ValueError("Expected no start step and no scheduler of a discriminator with `discriminator: null`.")
    families = discriminator.families if isinstance(discriminator, DiscriminatorEnsemble) else []
    if unknown := sorted(set(family_weights or ()) - set(families)):
        raise ValueError(f"Expected `family_weights` of the discriminator's families {families}, but got {unknown}.")
