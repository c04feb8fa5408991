"""Checkpoints in the naming of X-codec2's and NeuCodec's authors. Such a file holds no numbers but its tensors' shapes.

Three numbers no shape shows are the released ones: 64 channels per head of the decoder, 50 frames per second at 16 kHz,
and 16 layers of the semantic network. A decoder of another rate than 16 kHz is taken for NeuCodec's.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from modules.codec.formats.tensor_names import Tensors, from_released
from modules.codec.formats.weights import fill
from modules.codec.formats.xcodec2 import Xcodec2Shape, build_xcodec2
from modules.codec.generator import CodecGenerator
from modules.codec.parts.semantic_encoder import config_tensor

SEMANTIC = "semantic_model."
HEAD_CHANNELS, FRAME_RATE, SEMANTIC_LAYERS = 64, 50, 16


def load_released(tensors: Tensors, source: Path, semantic_model: str | None = None) -> CodecGenerator:
    """The codec of a released file's tensors.

    Args:
        tensors: By the names in the file.
        source: Where they are from, for messages.
        semantic_model: Folder or hub id of the semantic network, where the file does not hold it.

    Raises ValueError for missing, surplus or differing tensors.
    """
    held = any(key.startswith(SEMANTIC) for key in tensors)
    if not held and semantic_model is None:
        raise ValueError(
            f"Expected the semantic network's weights, `{SEMANTIC}*`, in `{source}`, but there are none. "
            "Say where they are: semantic_model='facebook/w2v-bert-2.0' or a folder."
        )
    shape = shape_of_released(tensors, source)
    if not held:
        shape = replace(shape, semantic_model=semantic_model)
    codec = build_xcodec2(shape)
    ours, surplus = from_released(tensors, shape.semantic_layers)
    semantic = codec.encoder.semantic
    if held:
        ours["encoder.semantic.config"] = config_tensor(semantic.network_config)
    else:
        ours |= {f"encoder.semantic.{name}": tensor for name, tensor in semantic.state_dict().items()}
    fill(codec, ours, surplus, source)
    return codec


def shape_of_released(tensors: Tensors, source: Path) -> Xcodec2Shape:
    """The numbers of the codec, from shapes. Raises ValueError where a tensor that shows one is missing."""

    def size(pattern: str, dimension: int) -> int:
        key = next((key for key in tensors if re.fullmatch(pattern, key)), None)
        if key is None:
            raise ValueError(f"Expected a tensor `{pattern}` in `{source}`, but there is none.")
        return tensors[key].shape[dimension]

    direction = r"\.(weight_v|parametrizations\.weight\.original1|weight)"
    blocks = [
        int(key.split(".")[2]) for key in tensors if re.fullmatch(r"CodecEnc\.conv_blocks\.\d+\.block\.4\.bias", key)
    ]
    strides = [size(rf"CodecEnc\.conv_blocks\.{block}\.block\.4{direction}", -1) // 2 for block in sorted(blocks)]
    layers = [key for key in tensors if key.endswith(".att.c_attn.weight")]
    channels = size(r"generator\.backbone\.embed\.weight", 0)
    hop_length = (size(r"generator\.head\.out\.weight", 0) - 2) // 4
    rate = FRAME_RATE * hop_length
    config = _semantic_config(tensors) if any(key.startswith(SEMANTIC) for key in tensors) else None
    return Xcodec2Shape(
        channels=channels,
        base_channels=size(r"CodecEnc\.conv_blocks\.0\.bias", 0),
        strides=tuple(strides),
        levels=(4,) * size(r"generator\.quantizer\.project_in\.weight", 0),
        num_layers=len(layers),
        num_heads=channels // HEAD_CHANNELS,
        hidden_channels=size(r"generator\.backbone\.transformers\.0\.mlp\.fc1\.weight", 0),
        output_sample_rate=rate,
        edge_padding=160 if rate == Xcodec2Shape.sample_rate else 0,
        semantic_layers=min(SEMANTIC_LAYERS, config["num_hidden_layers"]) if config else SEMANTIC_LAYERS,
        semantic_channels=size(r"SemanticEncoder_module\.initial_conv\.weight", 0),
        semantic_config=config,
        weight_norm=any(key.endswith((".weight_v", ".original1")) for key in tensors),
    )


def _semantic_config(tensors: Tensors) -> dict[str, Any]:
    """The configuration of w2v-BERT 2.0, with the sizes that the shapes show."""

    def shape(name: str) -> tuple[int, ...]:
        tensor: Tensor | None = tensors.get(SEMANTIC + name)
        if tensor is None:
            raise ValueError(f"Expected the semantic network's `{SEMANTIC}{name}`, but there is none.")
        return tuple(tensor.shape)

    pattern = re.escape(f"{SEMANTIC}encoder.layers.") + r"(\d+)\."
    layers = [int(match[1]) for key in tensors if (match := re.match(pattern, key))]
    width, features = shape("feature_projection.projection.weight")
    _, head_channels = shape("encoder.layers.0.self_attn.distance_embedding.weight")
    config = {
        "model_type": "wav2vec2-bert",
        "hidden_size": width,
        "feature_projection_input_dim": features,
        "num_hidden_layers": max(layers) + 1,
        "num_attention_heads": width // head_channels,
        "intermediate_size": shape("encoder.layers.0.ffn1.intermediate_dense.weight")[0],
        "conv_depthwise_kernel_size": shape("encoder.layers.0.conv_module.depthwise_conv.weight")[-1],
    }
    if f"{SEMANTIC}masked_spec_embed" not in tensors:
        config |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    return config
