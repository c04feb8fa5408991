"""Losses of the codec: multi-resolution mel, least-squares GAN, feature matching.

Shapes: B batch, T samples, S frames, C channels, M mel bands, R resolutions, D sub-discriminators.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.codec.parts.spectral import LogMel, frame_mask


@dataclass(frozen=True)
class LossWeights:
    """Weights of the generator's loss terms. The defaults are X-codec2's, with two exceptions.

    `mel`: X-codec2's 15 goes with `MultiResolutionMelLoss(reduction="sum")`.
    `perceptual`: the released configuration has 0; the value used to train the released weights is not published.
    `commitment`: X-codec2's quantizer has no such loss; SimVQ has.
    `phonemes`: of `phoneme_classifier`, which X-codec2 has not.
    """

    mel: float = 15.0
    adversarial: float = 1.0
    feature_matching: float = 1.0
    semantic: float = 5.0
    perceptual: float = 1.0
    commitment: float = 1.0
    phonemes: float = 1.0


@dataclass(frozen=True)
class MelDistances:
    """`mean_R`: mean distance over bands and valid frames at each resolution. `num_frames_R`: number of valid
    frames."""

    mean_R: Tensor
    num_frames_R: Tensor


class MultiResolutionMelLoss(nn.Module):
    """L1 distance of log10 mel spectrograms at several resolutions, over the valid frames of a batch.

    An item of n samples has ceil(n / hop) valid frames at each resolution, independent of batching (`Magnitude`). All
    valid frames of a batch have equal weight, and audio beyond n counts as silence on both sides. Windows and bands are
    DAC's (arXiv 2306.06546) by default. DAC and X-codec2 weight the sum over resolutions by 15, not the mean.

    Args:
        sample_rate: Hz.
        window_lengths: Analysis windows, samples; the hop is a quarter.
        num_mels: Mel bands of each resolution.
        reduction: Reduction of the training loss over the resolutions. `distances` is not affected.
    """

    def __init__(
        self,
        sample_rate: int,
        window_lengths: Sequence[int] = (32, 64, 128, 256, 512, 1024, 2048),
        num_mels: Sequence[int] = (5, 10, 20, 40, 80, 160, 320),
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise ValueError(f"Expected `reduction` to be mean or sum, but got {reduction!r}.")
        self.reduction = reduction
        if len(window_lengths) != len(num_mels):
            raise ValueError(
                f"Expected as many `num_mels` as `window_lengths`={list(window_lengths)}, but got {list(num_mels)}."
            )
        self.mels = nn.ModuleList(
            LogMel(sample_rate, window, window // 4, mels)
            for window, mels in zip(window_lengths, num_mels, strict=True)
        )

    @property
    def num_resolutions(self) -> int:
        return len(self.mels)

    def forward(self, generated_BT: Tensor, target_BT: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
        """Return a scalar with gradient to `generated_BT`. Without `num_samples_B` all samples are valid."""
        if num_samples_B is None:
            num_samples_B = torch.full(target_BT.shape[:1], target_BT.shape[-1], device=target_BT.device)
        distance_R = self.distances(generated_BT, target_BT, num_samples_B).mean_R
        return distance_R.mean() if self.reduction == "mean" else distance_R.sum()

    def distances(self, generated_BT: Tensor, target_BT: Tensor, num_samples_B: Tensor) -> MelDistances:
        natural_to_log10 = 0.4342944819
        audible_BT = frame_mask(num_samples_B, target_BT.shape[-1])
        means, nums_of_frames = [], []
        for mel in self.mels:
            with torch.no_grad():
                target_BMS = mel(target_BT * audible_BT)
            mask_BS = frame_mask(-(-num_samples_B // mel.magnitude.hop_length), target_BMS.shape[-1])
            num_frames = mask_BS.sum()
            # Weights with mean 1. Without padding each is exactly 1, so that the plain mean is not rounded.
            weight_B1S = (mask_BS * (mask_BS.numel() / num_frames.clamp(min=1)))[:, None]
            distance_BMS = (mel(generated_BT * audible_BT) - target_BMS).abs()
            means.append((distance_BMS * weight_B1S).mean() * natural_to_log10)
            nums_of_frames.append(num_frames)
        return MelDistances(torch.stack(means), torch.stack(nums_of_frames))


def discriminator_losses(real_scores: Sequence[Tensor], fake_scores: Sequence[Tensor]) -> Tensor:
    """Least-squares GAN losses (D,) (arXiv 1611.04076), one per sub-discriminator: real to 1, fake to 0."""
    losses = [
        (real - 1).square().mean() + fake.square().mean() for real, fake in zip(real_scores, fake_scores, strict=True)
    ]
    return torch.stack(losses)


def adversarial_losses(fake_scores: Sequence[Tensor]) -> Tensor:
    """Generator losses (D,) of the least-squares GAN, one per sub-discriminator."""
    return torch.stack([(fake - 1).square().mean() for fake in fake_scores])


def by_family(name: str, losses_D: Tensor, families: Sequence[str]) -> dict[str, Tensor]:
    """Sum the losses of each family, without gradient, under NAME_FAMILY; empty if there are no families."""
    sums: dict[str, Tensor] = {}
    for family, loss in zip(families, losses_D.detach(), strict=bool(families)):
        key = f"{name}_{family}"
        sums[key] = sums[key] + loss if key in sums else loss
    return sums


def feature_matching_loss(
    real_features: Sequence[Sequence[Tensor]],
    fake_features: Sequence[Sequence[Tensor]],
    weights_D: Sequence[float] | None = None,
) -> Tensor:
    """L1 distance of hidden maps, real side detached, summed over maps (as in MelGAN, arXiv 1910.06711). `weights_D`
    are those of the sub-discriminators' maps; 1 each by default."""
    distances, weights = [], []
    for number, (real_maps, fake_maps) in enumerate(zip(real_features, fake_features, strict=True)):
        distances += [F.l1_loss(fake, real.detach()) for real, fake in zip(real_maps, fake_maps, strict=True)]
        weights += [weights_D[number] if weights_D else 1.0] * len(real_maps)
    return weighted_sum(torch.stack(distances), weights if weights_D else None)


def weighted_sum(losses_N: Tensor, weights: Sequence[float] | None) -> Tensor:
    """Scalar. Without `weights`, the plain sum."""
    if weights is None:
        return losses_N.sum()
    return sum(weight * loss for weight, loss in zip(weights, losses_N, strict=True))


def weights_of(families: Sequence[str], family_weights: Mapping[str, float] | None) -> list[float] | None:
    """(D,) the weight of each sub-discriminator's family, 1 for those not named; None without `family_weights`."""
    return [family_weights.get(family, 1.0) for family in families] if family_weights else None


def semantic_loss(read_BSC: Tensor, semantic_BSC: Tensor | None, num_frames_B: Tensor) -> Tensor:
    """Mean squared distance over the frames of each item. Raises ValueError if the encoder returned no target."""
    if semantic_BSC is None:
        raise ValueError(
            "Expected an encoder that holds a frozen speech encoder, the teacher of `semantic_decoder`, but got one "
            "without."
        )
    mask_BS1 = frame_mask(num_frames_B, read_BSC.shape[1])[..., None]
    num_values = mask_BS1.sum() * read_BSC.shape[-1]
    return ((read_BSC - semantic_BSC).square() * mask_BS1).sum() / num_values.clamp(min=1)
