"""PerceptualLoss: distance of two waveforms in a frozen speech encoder.

Shapes: B batch, T samples, S frames, C channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.codec.parts.acoustic_encoder import unequal_lengths
from modules.codec.parts.semantic_encoder import Frozen, leave_mask_unread, pretrained_network, random_network
from modules.codec.parts.spectral import frame_mask


class PerceptualLoss(nn.Module):
    """Mean over layers of the mean squared distance between the hidden states of two waveforms, over valid frames.

    As described by X-codec2's authors: layers 10 to 21 of wav2vec 2.0 XLSR-53. The network is frozen, not part of the
    checkpoint, and read on first use, which in training is before the first step; layers above the last one used are
    neither built nor run.

    Padding is masked in the network's attention and excluded from the mean, so results do not depend on batching.
    Exception: networks whose first convolution normalises over time (`feat_extract_norm: group`, as in wav2vec 2.0
    base), whose statistics include the padding.

    Args:
        front_end: forward(audio_BT, num_samples_B) -> (input, num_frames_B), the network's input.
        layers: Indices of hidden states as transformers counts them; 0 is the input of the first layer.
        model: Hub id or folder of the weights.
        config: The network's configuration as transformers writes it: random weights, for tests.
    """

    def __init__(
        self,
        front_end: nn.Module,
        layers: Sequence[int] = tuple(range(10, 22)),
        model: str = "facebook/wav2vec2-large-xlsr-53",
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not layers or min(layers) < 0 or max(layers) < 1:
            raise ValueError(f"Expected `layers` to name hidden states, the last at least 1, but got {list(layers)}.")
        self.front_end, self.layers, self.model, self.config = front_end, tuple(layers), model, config
        self._frozen = Frozen()

    @property
    def network(self) -> nn.Module:
        """The frozen layers. Reads `model` on first use."""
        if self._frozen.network is None:
            if self.config is not None:
                network = random_network(self.config, max(self.layers))
            else:
                network, _ = pretrained_network(self.model, max(self.layers))
            leave_mask_unread(network)
            self._frozen.network = network.eval().requires_grad_(False)
        return self._frozen.network

    def forward(self, generated_BT: Tensor, target_BT: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
        """Return a scalar with gradient to `generated_BT`. Both are (B, T) at the front end's sample rate.

        Without `num_samples_B` all samples are valid.
        """
        if num_samples_B is None:
            num_samples_B = torch.full((len(target_BT),), target_BT.shape[-1], device=target_BT.device)
        is_padded = unequal_lengths(num_samples_B, target_BT.shape[-1]) is not None
        with torch.no_grad():
            real, mask_BS = self._states(target_BT, num_samples_B, is_padded)
        made, _ = self._states(generated_BT, num_samples_B, is_padded)
        return torch.stack([_distance(*states, mask_BS) for states in zip(made, real, strict=True)]).mean()

    def _states(self, audio_BT: Tensor, num_samples_B: Tensor, is_padded: bool) -> tuple[list[Tensor], Tensor | None]:
        """Return the selected hidden states, (B, S, C) each, and a mask of the valid frames, or None if all are
        valid."""
        inputs, num_frames_B = self.front_end(audio_BT, num_samples_B)
        mask = None
        if is_padded and self.front_end.masks_padding:
            mask = frame_mask(num_frames_B, inputs.shape[1])
        elif is_padded:  # the network takes a mask of samples, edges included, and derives the mask of frames
            mask = frame_mask(num_samples_B + inputs.shape[1] - audio_BT.shape[-1], inputs.shape[1]).long()
        network = self.network.to(audio_BT.device)
        states = network(inputs, attention_mask=mask, output_hidden_states=True).hidden_states
        mask_BS = frame_mask(num_frames_B, states[0].shape[1]) if is_padded else None
        return [states[layer] for layer in self.layers], mask_BS


def _distance(made_BSC: Tensor, real_BSC: Tensor, mask_BS: Tensor | None) -> Tensor:
    """Mean squared distance over the frames of the mask."""
    if mask_BS is None:
        return F.mse_loss(made_BSC, real_BSC)
    square_BSC = (made_BSC - real_BSC).square() * mask_BS[..., None]
    return square_BSC.sum() / (mask_BS.sum() * made_BSC.shape[-1]).clamp(min=1)
