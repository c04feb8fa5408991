"""PerceptualLoss: how far apart two waveforms are to a frozen speech encoder.

Shapes: B batch, T samples.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.codec.semantic import Frozen, pretrained_network, random_network


class PerceptualLoss(nn.Module):
    """Mean over layers of the mean square distance between the hidden states of two waveforms.

    As X-codec2's authors describe it: layers 10 to 21 of wav2vec 2.0 XLSR-53. The network is frozen, no part of the
    checkpoint, and read on first use, which in training is before the first step; layers above the last one wanted are
    neither built nor run.

    Args:
        front_end: forward(audio_BT, num_samples_B) -> (input, num_frames_B), the input that the network wants.
        layers: Numbers of hidden states as transformers counts them; 0 is what goes into the first layer.
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
            self._frozen.network = network.eval().requires_grad_(False)
        return self._frozen.network

    def forward(self, generated_BT: Tensor, target_BT: Tensor) -> Tensor:
        """Scalar, with gradient to `generated_BT`. Both (B, T) at the front end's sample rate."""
        with torch.no_grad():
            target = self._states(target_BT)
        distances = [F.mse_loss(made, real) for made, real in zip(self._states(generated_BT), target, strict=True)]
        return torch.stack(distances).mean()

    def _states(self, audio_BT: Tensor) -> list[Tensor]:
        num_samples_B = torch.full((len(audio_BT),), audio_BT.shape[-1], device=audio_BT.device)
        inputs, _ = self.front_end(audio_BT, num_samples_B)
        states = self.network.to(audio_BT.device)(inputs, output_hidden_states=True).hidden_states
        return [states[layer] for layer in self.layers]
