"""PhonemeClassifier: reads phonemes from the codes while a codec is trained. Shapes: B batch, S codes, C channels, F
frames of labels, K labels."""

import torch.nn.functional as F
from torch import Tensor, nn

from modules.batches import UNKNOWN


class PhonemeClassifier(nn.Module):
    """Labels of the frames of a code from its quantized vector alone: one hidden layer.

    Its loss (the term `phonemes`) makes the codes tell phonemes apart, so that a language model finds them easier to
    predict. The codec does not use it after training.

    Args:
        channels: Channels of the quantized vectors.
        labels_per_code: Frames of labels per code.
        num_labels: Number of different labels; the default is that of modules.frontend.phoneme_labels.
        hidden_channels: Width of the hidden layer.
    """

    def __init__(
        self, channels: int, labels_per_code: int = 2, num_labels: int = 40, hidden_channels: int = 256
    ) -> None:
        super().__init__()
        self.labels_per_code, self.num_labels = labels_per_code, num_labels
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden_channels),
            nn.GELU(),
            nn.Linear(hidden_channels, labels_per_code * num_labels),
        )

    def forward(self, latent_BSC: Tensor) -> Tensor:
        """Return the logits (B, F, K), F = S x labels_per_code."""
        return self.layers(latent_BSC).unflatten(-1, (self.labels_per_code, self.num_labels)).flatten(1, 2)


def phoneme_loss(logits_BFK: Tensor, phonemes_BF: Tensor | None) -> Tensor:
    """Mean cross entropy over the labelled frames; zero without any. Raises ValueError for a batch without labels, or
    with another number of frames."""
    if phonemes_BF is None:
        raise ValueError("Expected labels for `phoneme_classifier`, but got none: set the data's `phonemes`.")
    if abs(phonemes_BF.shape[1] - logits_BFK.shape[1]) > 1:
        raise ValueError(
            f"Expected as many labels as `labels_per_code` gives frames, {logits_BFK.shape[1]}, but got "
            f"{phonemes_BF.shape[1]}: set `hop_length` of the data's `phonemes` to fit."
        )
    num_frames = min(phonemes_BF.shape[1], logits_BFK.shape[1])
    logits_NK, labels_N = logits_BFK[:, :num_frames].flatten(0, 1).float(), phonemes_BF[:, :num_frames].flatten()
    total = F.cross_entropy(logits_NK, labels_N, ignore_index=UNKNOWN, reduction="sum")
    return total / (labels_N != UNKNOWN).sum().clamp(min=1)
