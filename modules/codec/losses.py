"""Losses of the codec: multi-resolution mel, least-squares GAN, feature matching.

Shapes: B batch, T samples, S frames, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.codec.spectral import LogMel, frame_mask


@dataclass(frozen=True)
class LossWeights:
    """Weights of the generator's loss terms. The defaults are X-codec2's, but for two.

    `perceptual`: the released configuration says 0, and what the released weights were trained with was never said.
    `commitment`: X-codec2's quantizer has no such loss; SimVQ has.
    """

    mel: float = 15.0
    adversarial: float = 1.0
    feature_matching: float = 1.0
    semantic: float = 5.0
    perceptual: float = 1.0
    commitment: float = 1.0


class MultiResolutionMelLoss(nn.Module):
    """Mean L1 distance of log10 mel spectrograms, averaged over resolutions (as in DAC, arXiv 2306.06546).

    Args:
        sample_rate: Hz.
        window_lengths: Analysis windows, samples; the hop is a quarter.
        num_mels: Mel bands of each resolution.
    """

    def __init__(
        self,
        sample_rate: int,
        window_lengths: Sequence[int] = (32, 64, 128, 256, 512, 1024, 2048),
        num_mels: Sequence[int] = (5, 10, 20, 40, 80, 160, 320),
    ) -> None:
        super().__init__()
        if len(window_lengths) != len(num_mels):
            raise ValueError(
                f"Expected as many `num_mels` as `window_lengths`={list(window_lengths)}, but got {list(num_mels)}."
            )
        self.mels = nn.ModuleList(
            LogMel(sample_rate, window, window // 4, mels)
            for window, mels in zip(window_lengths, num_mels, strict=True)
        )

    def forward(self, generated_BT: Tensor, target_BT: Tensor) -> Tensor:
        natural_to_log10 = 0.4342944819
        distances = []
        for mel in self.mels:
            with torch.no_grad():
                target = mel(target_BT)
            distances.append(F.l1_loss(mel(generated_BT), target) * natural_to_log10)
        return torch.stack(distances).mean()


def discriminator_loss(real_scores: Sequence[Tensor], fake_scores: Sequence[Tensor]) -> Tensor:
    """Least-squares GAN (arXiv 1611.04076): real to 1, fake to 0; summed over sub-discriminators."""
    losses = [
        (real - 1).square().mean() + fake.square().mean() for real, fake in zip(real_scores, fake_scores, strict=True)
    ]
    return torch.stack(losses).sum()


def adversarial_loss(fake_scores: Sequence[Tensor]) -> Tensor:
    """The generator's side of the least-squares GAN; summed over sub-discriminators."""
    return torch.stack([(fake - 1).square().mean() for fake in fake_scores]).sum()


def feature_matching_loss(
    real_features: Sequence[Sequence[Tensor]], fake_features: Sequence[Sequence[Tensor]]
) -> Tensor:
    """L1 distance of hidden maps, real side detached, summed over maps (as in MelGAN, arXiv 1910.06711)."""
    distances = [
        F.l1_loss(fake, real.detach())
        for real_maps, fake_maps in zip(real_features, fake_features, strict=True)
        for real, fake in zip(real_maps, fake_maps, strict=True)
    ]
    return torch.stack(distances).sum()


def semantic_loss(read_BSC: Tensor, semantic_BSC: Tensor | None, num_frames_B: Tensor) -> Tensor:
    """Mean square distance over the frames of each item. Raises ValueError where the encoder gave no target."""
    if semantic_BSC is None:
        raise ValueError(
            "Expected an encoder that holds a frozen speech encoder, the teacher of `semantic_decoder`, but got one "
            "without."
        )
    mask_BS1 = frame_mask(num_frames_B, read_BSC.shape[1])[..., None]
    num_values = mask_BS1.sum() * read_BSC.shape[-1]
    return ((read_BSC - semantic_BSC).square() * mask_BS1).sum() / num_values.clamp(min=1)
