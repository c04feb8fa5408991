"""The standard speaker encoder for zero-shot TTS evaluation: fine-tuned WavLM large with a small ECAPA-TDNN head.

WavLM (Chen et al., arXiv 2110.13900); ECAPA-TDNN (Desplanques et al., arXiv 2005.07143); both in UniSpeech's
`wavlm_large_finetune.pth`, which Seed-TTS-eval links. transformers has the first and not the second.

Shapes: B batch, C channels, S frames, T audio samples, D embedding dimensions.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.api import BROKEN_INSTALLATION, Audio
from modules.verifiers.audio import checked, failed, resampled
from modules.verifiers.model_files import content_hash

SAMPLE_RATE = 16_000
FRAMES_PER_SECOND = 50
STRIDES = (5, 2, 2, 2, 2, 2, 2)  # of WavLM's convolutions; not derivable from tensor shapes
DILATIONS = (2, 3, 4)  # of the three blocks
WHERE = "https://github.com/BytedanceSpeech/seed-tts-eval links wavlm_large_finetune.pth"

# UniSpeech's names for parts of WavLM, and transformers'.
WAVLM_NAMES = (
    (r"conv_layers\.(\d+)\.0\.", r"conv_layers.\1.conv."),
    (r"conv_layers\.(\d+)\.2\.1\.", r"conv_layers.\1.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"pos_conv\.0\.weight_g", "pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"pos_conv\.0\.weight_v", "pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"pos_conv\.0\.bias", "pos_conv_embed.conv.bias"),
    (r"self_attn_layer_norm\.", "layer_norm."),
    (r"self_attn\.grep_linear\.", "attention.gru_rel_pos_linear."),
    (r"self_attn\.grep_a", "attention.gru_rel_pos_const"),
    (r"self_attn\.relative_attention_bias\.", "attention.rel_attn_embed."),
    (r"self_attn\.", "attention."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
)
BLOCK_NAMES = {"Conv1dReluBn1": "enter", "Res2Conv1dReluBn": "groups", "Conv1dReluBn2": "leave", "SE_Connect": "gate"}


class ConvolvedUnit(nn.Module):
    """Convolution, ReLU, batch norm, in this order."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, channels, kernel_size, padding=kernel_size // 2)
        self.bn = nn.BatchNorm1d(channels)

    def forward(self, x_BCS: Tensor) -> Tensor:
        return self.bn(self.conv(x_BCS).relu())


class GroupedConvolutions(nn.Module):
    """Res2Net's convolutions: each group except the last is added to the previous group's output and convolved."""

    def __init__(self, width: int, num_convs: int, dilation: int) -> None:
        super().__init__()
        self.width = width
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation) for _ in range(num_convs)
        )
        self.bns = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(num_convs))

    def forward(self, x_BCS: Tensor) -> Tensor:
        *groups, last = x_BCS.split(self.width, dim=1)
        results: list[Tensor] = []
        for group, conv, norm in zip(groups, self.convs, self.bns, strict=True):
            results.append(norm(conv(group + results[-1] if results else group).relu()))
        return torch.cat([*results, last], dim=1)


class ChannelGate(nn.Module):
    """Squeeze and excitation: scales each channel by a number in (0, 1) computed from the means of all channels."""

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(channels, bottleneck), nn.Linear(bottleneck, channels)

    def forward(self, x_BCS: Tensor) -> Tensor:
        gate_BC = self.linear2(self.linear1(x_BCS.mean(dim=2)).relu()).sigmoid()
        return x_BCS * gate_BC[:, :, None]


class ResidualBlock(nn.Module):
    """Unit, groups, unit, gate, with a residual connection."""

    def __init__(self, channels: int, width: int, num_convs: int, bottleneck: int, dilation: int) -> None:
        super().__init__()
        self.enter, self.leave = ConvolvedUnit(channels, channels), ConvolvedUnit(channels, channels)
        self.groups = GroupedConvolutions(width, num_convs, dilation)
        self.gate = ChannelGate(channels, bottleneck)

    def forward(self, x_BCS: Tensor) -> Tensor:
        return x_BCS + self.gate(self.leave(self.groups(self.enter(x_BCS))))


class AttentivePool(nn.Module):
    """Attentive statistics pooling: mean and standard deviation over frames with weights per channel: (B, 2C)."""

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Conv1d(channels, bottleneck, 1), nn.Conv1d(bottleneck, channels, 1)

    def forward(self, x_BCS: Tensor) -> Tensor:
        weights_BCS = self.linear2(self.linear1(x_BCS).tanh()).softmax(dim=2)
        mean_BC = (weights_BCS * x_BCS).sum(dim=2)
        variance_BC = (weights_BCS * x_BCS.square()).sum(dim=2) - mean_BC.square()
        return torch.cat([mean_BC, variance_BC.clamp(min=1e-9).sqrt()], dim=1)


class SpeakerHead(nn.Module):
    """Maps all hidden states of WavLM to an embedding. Sizes are taken from a file's `tensors`, by its names."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        channels, features, kernel_size = tensors["layer1.conv.weight"].shape
        width = tensors["layer2.groups.convs.0.weight"].shape[0]
        bottleneck = tensors["layer2.gate.linear1.weight"].shape[0]
        pooled, joined, _ = tensors["conv.weight"].shape
        self.feature_weight = nn.Parameter(torch.zeros(tensors["feature_weight"].shape[0]))
        self.layer1 = ConvolvedUnit(features, channels, kernel_size)
        sizes = (channels, width, channels // width - 1, bottleneck)
        self.layer2, self.layer3, self.layer4 = (ResidualBlock(*sizes, dilation) for dilation in DILATIONS)
        self.conv = nn.Conv1d(joined, pooled, 1)
        self.pooling = AttentivePool(pooled, tensors["pooling.linear1.weight"].shape[0])
        self.bn = nn.BatchNorm1d(2 * pooled)
        self.linear = nn.Linear(2 * pooled, tensors["linear.weight"].shape[0])

    def forward(self, hidden: Sequence[Tensor]) -> Tensor:
        """(B, D) from the (B, S, C) of every layer."""
        shares = self.feature_weight.softmax(0)
        mixed_BSC = sum(share * states_BSC for share, states_BSC in zip(shares, hidden, strict=True))
        first_BCS = self.layer1(functional.instance_norm(mixed_BSC.transpose(1, 2) + 1e-6))
        second_BCS = self.layer2(first_BCS)
        third_BCS = self.layer3(second_BCS)
        joined_BCS = torch.cat([second_BCS, third_BCS, self.layer4(third_BCS)], dim=1)
        return self.linear(self.bn(self.pooling(self.conv(joined_BCS).relu())))


def split_tensors(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split into WavLM's tensors by transformers' names and the head's by ours; training-only tensors are dropped."""
    wavlm: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("feature_extract.model."):
            inner = name.removeprefix("feature_extract.model.")
            for pattern, replacement in WAVLM_NAMES:
                inner = re.sub(pattern, replacement, inner)
            if inner != "mask_emb":
                wavlm[inner] = tensor
        elif not name.startswith("loss_calculator."):
            for theirs, ours in BLOCK_NAMES.items():
                name = name.replace(f".{theirs}.", f".{ours}.")
            head[name] = tensor
    return wavlm, head


def build_wavlm(tensors: Mapping[str, Tensor]) -> Any:
    """Build transformers' WavLMModel with the sizes of the tensors and load them."""
    from transformers import WavLMConfig, WavLMModel

    def shape(name: str) -> torch.Size:
        return tensors[name].shape

    hidden_size, group_size, num_positions = shape("encoder.pos_conv_embed.conv.parametrizations.weight.original1")
    convs = [shape(f"feature_extractor.conv_layers.{index}.conv.weight") for index in range(len(STRIDES))]
    layers = {int(match[1]) for name in tensors if (match := re.match(r"encoder\.layers\.(\d+)\.", name))}
    config = WavLMConfig(
        hidden_size=hidden_size,
        num_hidden_layers=len(layers),
        num_attention_heads=shape("encoder.layers.0.attention.gru_rel_pos_const")[1],
        intermediate_size=shape("encoder.layers.0.feed_forward.intermediate_dense.weight")[0],
        num_buckets=shape("encoder.layers.0.attention.rel_attn_embed.weight")[0],
        conv_dim=[size[0] for size in convs],
        conv_kernel=[size[2] for size in convs],
        conv_stride=list(STRIDES),
        num_conv_pos_embeddings=num_positions,
        num_conv_pos_embedding_groups=hidden_size // group_size,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        mask_time_prob=0.0,
        mask_feature_prob=0.0,
        layerdrop=0.0,
    )
    network = WavLMModel(config)
    network.load_state_dict(tensors)
    return network


class FineTunedWavLM:
    """Embeddings for the published SIM, to be compared by `Speaker`. Clips are processed one at a time, because the
    head has no mask.

    Args:
        weights: `wavlm_large_finetune.pth`.
        device: Device of the model.

    Raises (on use):
        FileNotFoundError: There is no such file; the message says where it is linked.
        RuntimeError, KeyError: The file has other tensors.
    """

    families = frozenset({"wavlm"})

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        self.weights, self.device = Path(weights), device

    def _file(self) -> Path:
        if not self.weights.is_file():
            raise FileNotFoundError(f"Expected `weights` at {self.weights}, but there is no such file. {WHERE}.")
        return self.weights

    @cached_property
    def model_hash(self) -> str:
        return content_hash([self._file()])

    @cached_property
    def _networks(self) -> tuple[Any, SpeakerHead]:
        content = torch.load(self._file(), map_location="cpu", weights_only=True)
        wavlm_tensors, head_tensors = split_tensors(content.get("model", content))
        head = SpeakerHead(head_tensors)
        head.load_state_dict(head_tensors)
        wavlm = build_wavlm(wavlm_tensors)
        for network in (wavlm, head):
            network.to(self.device).eval().requires_grad_(False)
        return wavlm, head

    def embed(self, audios: Sequence[Audio | None]) -> list[np.ndarray | Exception]:
        """One (D,) float32 of length 1 per clip, or the exception if it failed."""
        networks = self._networks  # raises if the file is missing, even without clips
        return [self._direction(audio, *networks) for audio in audios]

    @torch.inference_mode()
    def _direction(self, audio: Audio | None, wavlm: Any, head: SpeakerHead) -> np.ndarray | Exception:
        try:
            samples_T = torch.from_numpy(resampled(checked(audio), SAMPLE_RATE)).to(self.device)
            normal_T = functional.layer_norm(samples_T, samples_T.shape)
            output = wavlm(normal_T[None], output_hidden_states=True)
            # The inputs of all layers and the output of the last norm, which the last of hidden_states may lack.
            hidden = [*output.hidden_states[:-1], output.last_hidden_state]
            return functional.normalize(head(hidden)[0], dim=0).float().cpu().numpy()
        except BROKEN_INSTALLATION:
            raise
        except Exception as error:  # noqa: BLE001 - one bad clip must not stop the others
            return failed(error)

    def flops(self, seconds: float) -> float:
        """2 FLOPs per weight and frame."""
        num_weights = sum(weight.numel() for network in self._networks for weight in network.parameters())
        return 2.0 * num_weights * FRAMES_PER_SECOND * max(0.0, seconds)
