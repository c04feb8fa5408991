"""References for our codecs: transformers' own, small, with every parameter perturbed; and librosa's mels."""

import warnings
from typing import Any

import librosa
import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    NeuCodecConfig,
    NeuCodecModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Xcodec2Config,
    Xcodec2Model,
)

from modules.codec.generator import CodecGenerator
from modules.codec.parts.acoustic_encoder import AcousticEncoder
from modules.codec.parts.filter_bank import KaldiFilterBank
from modules.codec.parts.quantizers import Xcodec2Quantizer
from modules.codec.parts.semantic_encoder import SemanticEncoder
from modules.codec.parts.semantic_fusion import SemanticAcousticEncoder, SemanticAdapter
from modules.codec.parts.transformer_decoder import TransformerDecoder

HOP = 320


def semantic_config(**changes: Any) -> dict[str, Any]:
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "conv_depthwise_kernel_size": 5,
    }
    return Wav2Vec2BertConfig(**{**settings, **changes}).to_diff_dict()


SMALL = {
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "encoder_hidden_size": 4,
    "quantization_dim": 160,
}
CONFIGS = {
    "xcodec2": (Xcodec2Config, {}),
    # Another quantizer, other strides, other heads, and relative positions in the semantic network.
    "odd": (
        Xcodec2Config,
        {
            "quantization_levels": [8, 5, 4, 3],
            "downsampling_ratios": [4, 5, 4, 2, 2],
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "num_hidden_layers": 1,
            "activation_dropout": 0.25,
            "semantic": {"position_embeddings_type": "relative", "num_hidden_layers": 1},
        },
    ),
    "neucodec": (NeuCodecConfig, {}),
}


def perturbed(module: nn.Module, seed: int) -> nn.Module:
    """Perturb every parameter, including those of norms and SnakeBeta, with activations of normal magnitude."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1 and "distance_embedding" not in name and "pos_bias" not in name:
                # Snake's periodic part is bounded: signals of the acoustic encoder must be small for it to matter.
                gain = 0.6 if "acoustic" in name and "acoustic_decoder" not in name else 1.2
                weight.copy_(gain * noise / weight[0].numel() ** 0.5)
            else:
                weight += 0.3 * noise
    return module.eval().requires_grad_(False)


def reference_model(kind: str, seed: int = 0) -> nn.Module:
    config_class, changes = CONFIGS[kind]
    changes = dict(changes)
    semantic = semantic_config(**changes.pop("semantic", {}))
    config = config_class(**{**SMALL, **changes, "semantic_model_config": semantic})
    model = (NeuCodecModel if config_class is NeuCodecConfig else Xcodec2Model)(config)
    return calibrated(perturbed(model, seed))


def calibrated(model: nn.Module) -> nn.Module:
    """Calibrate so that codes use the whole codebook and depend on both encoders equally, as after training.

    Otherwise a wrong encoder might give the same few codes.
    """
    kept = {}

    def keep(name):
        return lambda module, inputs, output: kept.update({name: (inputs[0], output)})

    audio_T = noise_items(32000, seed=7)[0][0]
    parts = {"acoustic_encoder": model.acoustic_encoder.conv2, "semantic_adapter": model.semantic_adapter.conv4}
    hooks = [module.register_forward_hook(keep(name)) for name, module in parts.items()]
    hooks.append(model.quantizer.project_in.register_forward_hook(keep("quantizer")))
    with torch.no_grad():
        reference_codes(model, audio_T)
        for name, module in parts.items():
            equalise(module, kept[name][1][0])
        reference_codes(model, audio_T)
        spread(model.quantizer.project_in, kept["quantizer"][0][0])
    for hook in hooks:
        hook.remove()
    return model


def equalise(convolution: nn.Conv1d, output_CS: Tensor) -> None:
    """Scale a convolution so that its channels vary by about 1 over time, and remove their means."""
    convolution.weight.div_(output_CS.std(1)[:, None, None])
    if convolution.bias is not None:
        convolution.bias.sub_(output_CS.mean(1)).div_(output_CS.std(1))


def spread(project: nn.Linear, latent_SC: Tensor) -> None:
    """Scale the projection's outputs, the quantizer's inputs, to its step range."""
    project.weight.mul_((0.7 / (latent_SC @ project.weight.T).std(0))[:, None])
    project.bias.copy_(-0.2 - (latent_SC @ project.weight.T).mean(0))


def reference_inputs(audio_T: Tensor, edge_padding: int) -> dict[str, Tensor]:
    """Output of transformers' Xcodec2FeatureExtractor or NeuCodec's for one item, without torchaudio."""
    padded_T = torch.nn.functional.pad(audio_T, (0, HOP - len(audio_T) % HOP))
    edged = np.pad(padded_T.numpy(), edge_padding)
    features = SeamlessM4TFeatureExtractor()(edged, sampling_rate=16000, return_tensors="pt")
    return {"input_values": padded_T[None, None], "input_features": features["input_features"]}


def reference_codes(model: nn.Module, audio_T: Tensor) -> Tensor:
    """(S,) codes of one item."""
    edge_padding = 0 if isinstance(model, NeuCodecModel) else 160
    return model.encode(**reference_inputs(audio_T, edge_padding)).audio_codes[0, 0].long()


def reference_audio(model: nn.Module, codes_S: Tensor) -> Tensor:
    """(S * hop,) waveform of one item."""
    return model.decode(audio_codes=codes_S[None, None]).audio_values[0, 0]


def noise_items(*lengths: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Noise with a varying envelope, and garbage beyond each length that a codec must ignore."""
    generator = torch.Generator().manual_seed(seed)
    audio_BT = 0.3 * torch.randn(len(lengths), max(lengths), generator=generator)
    return audio_BT * torch.linspace(0.1, 1, max(lengths)), torch.tensor(lengths)


def small_codec(output_sample_rate: int = 16000, edge_padding: int = 160, time_rotary: bool = False) -> CodecGenerator:
    """Small X-codec2 with weight norms; every parameter perturbed; codes that use the whole codebook."""
    torch.manual_seed(0)
    encoder = SemanticAcousticEncoder(
        AcousticEncoder(base_channels=4, channels=64),
        SemanticEncoder(KaldiFilterBank(edge_padding), 2, 32, config=semantic_config()),
        SemanticAdapter(32),
    )
    hop_length = 320 * output_sample_rate // 16000
    decoder = TransformerDecoder(output_sample_rate, hop_length, 64, 2, 2, 96, time_rotary=time_rotary)
    codec = perturbed(CodecGenerator(encoder, Xcodec2Quantizer(96), decoder), 3)
    perturbed(encoder.semantic.network, 4)
    audio = noise_items(16000)
    with torch.no_grad():
        output_CS = encoder.acoustic(*audio).latent_BSC[0].T
        weight = encoder.acoustic.final_convolution.parametrizations.weight.original0
        weight.div_(output_CS.std(1)[:, None, None])
        encoder.acoustic.final_convolution.bias.sub_(output_CS.mean(1)).div_(output_CS.std(1))
        states = encoder.semantic(*audio)
        equalise(encoder.adapter.output, encoder.adapter(states.latent_BSC, states.num_frames_B)[0].T)
        spread(codec.quantizer.project_in, encoder(*audio).latent_BSC[0])
    return codec


def librosa_distances(made_BT: Tensor, real_BT: Tensor) -> list[float]:
    """Mean L1 distance of log10 mels, floored at 1e-5, at each of X-codec2's seven resolutions.

    Frames are positioned like ours, half a hop after librosa's own: `center=False` on audio with zeros at both ends.
    """
    distances = []
    for window, num_mels in zip((32, 64, 128, 256, 512, 1024, 2048), (5, 10, 20, 40, 80, 160, 320), strict=True):
        hop = window // 4
        edge = (window - hop) // 2
        mels = []
        for audio_BT in (made_BT, real_BT):
            padded = np.pad(audio_BT.double().numpy(), ((0, 0), (edge, edge + -audio_BT.shape[1] % hop)))
            with warnings.catch_warnings(action="ignore"):  # the smallest resolutions have bands without a bin
                mel = librosa.feature.melspectrogram(
                    y=padded, sr=16000, n_fft=window, hop_length=hop, n_mels=num_mels, power=1.0, center=False
                )
            mels.append(np.log10(np.maximum(mel, 1e-5)))
        distances.append(float(np.abs(mels[0] - mels[1]).mean()))
    return distances
