"""The published speaker encoder against its formulas, from a small file with the published names.

Shapes: C channels, S frames, T audio samples.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import WavLMConfig, WavLMModel

from modules.api import Audio
from modules.verifiers.embeddings.wavlm_speaker import FineTunedWavLM

CHANNELS, WIDTH, POOLED = 16, 4, 24


def wavlm() -> WavLMModel:
    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, conv_dim=[8] * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, feat_extract_norm="layer",
        do_stable_layer_norm=True, num_buckets=32,
    )  # fmt: skip
    network = WavLMModel(config).eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return network


def published_names(network: WavLMModel) -> dict[str, torch.Tensor]:
    """transformers' tensors under the names of the authors' code."""
    renamed = {}
    for name, tensor in network.state_dict().items():
        if name.startswith("feature_extractor."):
            name = name.replace(".conv.", ".0.").replace(".layer_norm.", ".2.1.")
        elif name.startswith("feature_projection."):
            part = name.removeprefix("feature_projection.")
            name = part if part.startswith("layer_norm") else part.replace("projection", "post_extract_proj")
        elif ".pos_conv_embed." in name:
            tail = {"bias": "bias", "original0": "weight_g", "original1": "weight_v"}[name.rpartition(".")[2]]
            name = f"encoder.pos_conv.0.{tail}"
        elif ".layers." in name:
            for theirs, published in (
                (".attention.gru_rel_pos_linear", ".self_attn.grep_linear"),
                (".attention.gru_rel_pos_const", ".self_attn.grep_a"),
                (".attention.rel_attn_embed", ".self_attn.relative_attention_bias"),
                (".attention.", ".self_attn."), (".feed_forward.intermediate_dense", ".fc1"),
                (".feed_forward.output_dense", ".fc2"), (".layer_norm.", ".self_attn_layer_norm."),
            ):  # fmt: skip
                name = name.replace(theirs, published)
        elif name == "masked_spec_embed":
            name = "mask_emb"
        renamed[f"feature_extract.model.{name}"] = tensor
    return renamed


def head_tensors() -> dict[str, torch.Tensor]:
    """Random tensors with the names and shapes of the published head."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"feature_weight": (3,), "loss_calculator.projection.weight": (5, 8)}

    def unit(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def norm(name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)

    unit("layer1.conv", CHANNELS, 32, 5)
    norm("layer1.bn", CHANNELS)
    for layer in ("layer2", "layer3", "layer4"):
        for part in ("Conv1dReluBn1", "Conv1dReluBn2"):
            unit(f"{layer}.{part}.conv", CHANNELS, CHANNELS, 1)
            norm(f"{layer}.{part}.bn", CHANNELS)
        for index in range(CHANNELS // WIDTH - 1):
            unit(f"{layer}.Res2Conv1dReluBn.convs.{index}", WIDTH, WIDTH, 3)
            norm(f"{layer}.Res2Conv1dReluBn.bns.{index}", WIDTH)
        unit(f"{layer}.SE_Connect.linear1", 6, CHANNELS)
        unit(f"{layer}.SE_Connect.linear2", CHANNELS, 6)
    unit("conv", POOLED, 3 * CHANNELS, 1)
    unit("pooling.linear1", 5, POOLED, 1)
    unit("pooling.linear2", POOLED, 5, 1)
    norm("bn", 2 * POOLED)
    unit("linear", 8, 2 * POOLED)
    tensors = {name: torch.randn(shape, generator=generator) / 2 for name, shape in shapes.items()}
    for name in list(tensors):
        if name.endswith("running_var"):
            tensors[name] = tensors[name].abs() + 0.5
            tensors[name.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    return tensors


def expected_embedding(hidden: list[torch.Tensor], w: dict[str, torch.Tensor]) -> torch.Tensor:
    """The head, formula by formula, for one clip: (C, S) by functions of torch alone."""

    def conv(name, x, padding=0, dilation=1):
        return functional.conv1d(x[None], w[f"{name}.weight"], w[f"{name}.bias"], 1, padding, dilation)[0]

    def norm(name, x):
        mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return ((x.T - mean) / (variance + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]).T

    def block(name, x, dilation):
        y = norm(f"{name}.Conv1dReluBn1.bn", conv(f"{name}.Conv1dReluBn1.conv", x).relu())
        parts = []
        for index in range(CHANNELS // WIDTH - 1):
            part = y[index * WIDTH : (index + 1) * WIDTH] + (parts[-1] if parts else 0)
            convolved = conv(f"{name}.Res2Conv1dReluBn.convs.{index}", part, dilation, dilation)
            parts.append(norm(f"{name}.Res2Conv1dReluBn.bns.{index}", convolved.relu()))
        y = norm(f"{name}.Conv1dReluBn2.bn", conv(f"{name}.Conv1dReluBn2.conv", torch.cat([*parts, y[-WIDTH:]])).relu())
        gate = (w[f"{name}.SE_Connect.linear1.weight"] @ y.mean(1) + w[f"{name}.SE_Connect.linear1.bias"]).relu()
        gate = w[f"{name}.SE_Connect.linear2.weight"] @ gate + w[f"{name}.SE_Connect.linear2.bias"]
        return x + y * torch.sigmoid(gate)[:, None]

    shares = torch.exp(w["feature_weight"]) / torch.exp(w["feature_weight"]).sum()
    mixed = sum(share * states[0].T for share, states in zip(shares, hidden, strict=True))
    mixed = (mixed - mixed.mean(1, keepdim=True)) / (mixed.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    first = norm("layer1.bn", conv("layer1.conv", mixed, 2).relu())
    second = block("layer2", first, 2)
    third = block("layer3", second, 3)
    joined = conv("conv", torch.cat([second, third, block("layer4", third, 4)])).relu()
    weights = conv("pooling.linear2", conv("pooling.linear1", joined).tanh()).softmax(1)
    mean = (weights * joined).sum(1)
    deviation = (weights * (joined - mean[:, None]) ** 2).sum(1).sqrt()
    pooled = norm("bn", torch.cat([mean, deviation])[:, None])[:, 0]
    return w["linear.weight"] @ pooled + w["linear.bias"]


def hidden_states(network: WavLMModel, samples_T: torch.Tensor) -> list[torch.Tensor]:
    """Input of each layer, and output of the encoder after its last norm: UniSpeech's and s3prl's choice."""
    inputs: list[torch.Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, x: inputs.append(x[0])) for layer in network.encoder.layers]
    last = network(samples_T[None]).last_hidden_state
    for hook in hooks:
        hook.remove()
    return [*inputs, last]


@torch.no_grad()
def test_embeddings_are_those_of_the_formulas(tmp_path: Path) -> None:
    """Guards against swapped tensors, layers missing in the weighted sum, and clips that affect each other."""
    network, head = wavlm(), head_tensors()
    torch.save({"model": published_names(network) | head, "args": None}, tmp_path / "wavlm_large_finetune.pth")
    encoder = FineTunedWavLM(tmp_path / "wavlm_large_finetune.pth")
    generator = torch.Generator().manual_seed(4)
    clips = [Audio(torch.randn(length, generator=generator) / 9 + 0.02, 16000) for length in (8000, 5000)]
    for clip, embedding in zip(clips, encoder.embed(clips), strict=True):
        normal = (clip.samples_T - clip.samples_T.mean()) / clip.samples_T.std(unbiased=False)
        hidden = hidden_states(network, normal)
        assert len(hidden) == 3
        expected = expected_embedding(hidden, head)
        np.testing.assert_allclose(embedding, (expected / expected.norm()).numpy(), rtol=2e-3, atol=2e-3)
    assert isinstance(encoder.embed([None])[0], ValueError)
    assert len(encoder.model_hash) == 64 and encoder.flops(2.0) == 2 * encoder.flops(1.0) > 0


def test_an_absent_or_other_file_is_refused(tmp_path: Path) -> None:
    """Guards against similarities from random weights."""
    with pytest.raises(FileNotFoundError, match=r"Expected `weights` at .*seed-tts-eval links wavlm_large_finetune"):
        FineTunedWavLM(tmp_path / "none.pth").embed([])
    tensors = published_names(wavlm()) | head_tensors()
    tensors.pop("layer3.SE_Connect.linear1.bias")
    torch.save(tensors, tmp_path / "other.pth")
    with pytest.raises(RuntimeError, match=r"layer3\.gate\.linear1\.bias"):
        FineTunedWavLM(tmp_path / "other.pth").embed([None])
