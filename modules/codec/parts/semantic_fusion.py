"""SemanticAcousticEncoder: semantic and acoustic features in one vector per frame (X-codec2, arXiv 2502.04128).

Shapes: B batch, T samples, S frames, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.codec.parts.spectral import frame_mask
from modules.codec.parts.spectral_encoder import Encoded


class SemanticAdapter(nn.Module):
    """Convolutions over the states of the speech encoder, with kernel size 3.

    The skip connection adds relu(x), not x: the reference code's first activation works in place, and its weights
    depend on that.
    """

    def __init__(self, channels: int = 1024) -> None:
        super().__init__()
        self.channels = channels
        self.input = nn.Conv1d(channels, channels, 3, padding=1, bias=False)
        self.first = nn.Conv1d(channels, channels, 3, padding=1)
        self.second = nn.Conv1d(channels, channels, 3, padding=1)
        self.output = nn.Conv1d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x_BSC: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return (B, S, C). Frames beyond an item's length act as zero padding."""
        mask_B1S = frame_mask(num_frames_B, x_BSC.shape[1])[:, None]
        x_BCS = F.relu(self.input(x_BSC.transpose(1, 2) * mask_B1S)) * mask_B1S
        hidden_BCS = F.relu(self.first(x_BCS)) * mask_B1S
        return self.output((x_BCS + self.second(hidden_BCS)) * mask_B1S).transpose(1, 2)


class SemanticDecoder(nn.Module):
    """Predicts the speech encoder's states from the quantized vectors, for the semantic loss. Used in training only.

    Args:
        in_channels: Width of the quantized vectors.
        channels: Width of the speech encoder.
    """

    def __init__(self, in_channels: int = 2048, channels: int = 1024) -> None:
        super().__init__()
        self.project = nn.Linear(in_channels, channels)
        self.adapter = SemanticAdapter(channels)

    def forward(self, latent_BSC: Tensor, num_frames_B: Tensor) -> Tensor:
        return self.adapter(self.project(latent_BSC), num_frames_B)


class SemanticAcousticEncoder(nn.Module):
    """Semantic and acoustic encoder in parallel, joined by one linear layer.

    Args:
        acoustic, semantic: forward(audio_BT, num_samples_B) -> Encoded, at the same frame rate. If one gives fewer
            frames, the other's last ones are dropped (as in NeuCodec).
        adapter: forward(semantic_BSC, num_frames_B) -> the same shape.
        appends_frame: Pad an item of n samples to n // hop + 1 frames, as the released inference code does, even if n
            is a multiple of hop. Otherwise to ceil(n / hop).
    """

    def __init__(
        self, acoustic: nn.Module, semantic: nn.Module, adapter: nn.Module, appends_frame: bool = True
    ) -> None:
        super().__init__()
        ours = (acoustic.sample_rate, acoustic.hop_length)
        if ours != (semantic.sample_rate, semantic.hop_length):
            raise ValueError(
                f"Expected `semantic` to have the sample rate and hop of `acoustic`, {ours}, "
                f"but got {(semantic.sample_rate, semantic.hop_length)}."
            )
        self.acoustic, self.semantic, self.adapter = acoustic, semantic, adapter
        self.appends_frame = appends_frame
        self.sample_rate, self.hop_length = ours
        self.channels = semantic.channels + acoustic.channels
        self.fusion = nn.Linear(self.channels, self.channels)

    @property
    def encode_settings(self) -> str:
        """Settings other than the weights that affect the codes."""
        return f"appends_frame={self.appends_frame} {self.semantic.encode_settings}{self.acoustic.encode_settings}"

    @property
    def samples_per_call(self) -> float:
        return self.acoustic.samples_per_call

    def forward(self, audio_BT: Tensor, num_samples_B: Tensor, semantic_BSC: Tensor | None = None) -> Encoded:
        """Return (B, S, C), the number of frames of each item, and the speech encoder's states.

        `semantic_BSC`: precomputed states, one per frame; the speech encoder is then not run.
        """
        hop = self.hop_length
        num_frames_B = num_samples_B // hop + 1 if self.appends_frame else -(-num_samples_B // hop)
        audible = audio_BT * frame_mask(num_samples_B, audio_BT.shape[-1])
        rest = hop - audible.shape[-1] % hop if self.appends_frame else -audible.shape[-1] % hop
        audible = F.pad(audible, (0, rest))
        if semantic_BSC is None:
            semantic = self.semantic(audible, num_frames_B * hop)
        else:
            semantic = Encoded(semantic_BSC, -(-num_samples_B // hop))
        acoustic = self.acoustic(audible, num_frames_B * hop)
        num_frames = min(semantic.latent_BSC.shape[1], acoustic.latent_BSC.shape[1])
        num_frames_B = torch.minimum(semantic.num_frames_B, acoustic.num_frames_B)
        states_BSC = semantic.latent_BSC[:, :num_frames]
        # The adapter receives all frames of the speech encoder, including those dropped from the joint frames.
        adapted_BSC = self.adapter(semantic.latent_BSC, semantic.num_frames_B)[:, :num_frames]
        joint_BSC = torch.cat([adapted_BSC, acoustic.latent_BSC[:, :num_frames]], dim=-1)
        return Encoded(self.fusion(joint_BSC), num_frames_B, states_BSC)
