"""transformers' Xcodec2Model and NeuCodecModel folders, read and written."""

import json
from pathlib import Path
from typing import Any

import torch

from modules.codec.formats.tensor_names import Tensors, from_transformers, to_transformers
from modules.codec.formats.weights import fill
from modules.codec.formats.xcodec2 import Xcodec2Shape, build_xcodec2, shape_of
from modules.codec.generator import CodecGenerator
from modules.codec.parts.semantic_encoder import config_tensor

MODEL_TYPES = "xcodec2", "neucodec"


def load_transformers(folder: Path, tensors: Tensors) -> CodecGenerator:
    """The codec of a folder that Xcodec2Model or NeuCodecModel saved; weight norm comes folded and stays so.

    `tensors` are those of the folder. Raises FileNotFoundError where it has no config.json, ValueError for settings
    that this codec does not have, and for missing, surplus or differing tensors.
    """
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"Expected the config.json of transformers' codec in `{folder}`, but there is none.")
    config = AutoConfig.from_pretrained(folder)
    shape = _shape(config)
    codec = build_xcodec2(shape)
    ours, surplus = from_transformers(tensors, shape.num_heads)
    ours["encoder.semantic.config"] = config_tensor(codec.encoder.semantic.network_config)
    fill(codec, ours, surplus, folder)
    return codec


def save_transformers(codec: CodecGenerator, folder: Path | str) -> None:
    """Write a folder that transformers.Xcodec2Model.from_pretrained loads, or NeuCodecModel where the codec is one.

    A codec with the filter bank of NeuCodec (no edges) becomes a NeuCodecModel, which has an output rate of its own.
    Raises ValueError, with the list of what differs, where transformers cannot express the codec; writes nothing then.
    """
    from safetensors.torch import save_file

    shape = shape_of(codec)
    config, kind = _config(shape)
    tensors = to_transformers(_folded(codec), shape.num_heads)
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in kind(config).state_dict().items()}
    given = {name: tensor.shape for name, tensor in tensors.items()}
    if given != wanted:
        names = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise ValueError(
            f"Expected {kind.__name__}'s tensors, but these are missing, surplus or of other shape: {names}"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = [kind.__name__]
    config.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_feature_extractor(shape, kind), indent=2) + "\n")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _shape(config: Any) -> Xcodec2Shape:
    if config.model_type not in MODEL_TYPES:
        raise ValueError(f"Expected `model_type` to be one of {MODEL_TYPES}, but got {config.model_type!r}.")
    is_neucodec = config.model_type == "neucodec"
    semantic = config.semantic_model_config.to_diff_dict()
    _check_settings(config)
    sample_rate = config.input_sampling_rate if is_neucodec else config.sampling_rate
    return Xcodec2Shape(
        channels=config.hidden_size,
        base_channels=config.encoder_hidden_size,
        strides=tuple(config.downsampling_ratios),
        levels=tuple(config.quantization_levels),
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        hidden_channels=config.intermediate_size,
        dropout=config.activation_dropout,
        sample_rate=sample_rate,
        output_sample_rate=config.output_sampling_rate if is_neucodec else sample_rate,
        edge_padding=0 if is_neucodec else 160,
        semantic_layers=config.semantic_model_config.num_hidden_layers,
        semantic_channels=config.semantic_model_config.hidden_size,
        semantic_config={"model_type": config.semantic_model_config.model_type, **semantic},
        weight_norm=False,
    )


def _check_settings(config: Any) -> None:
    """What transformers can vary and this codec cannot."""
    semantic = config.semantic_model_config
    checks = [
        ("head_dim", config.head_dim, config.hidden_size // config.num_attention_heads),
        ("num_key_value_heads", config.num_key_value_heads, config.num_attention_heads),
        ("hidden_act", config.hidden_act, "silu"),
        ("attention_bias", config.attention_bias, False),
        ("rms_norm_eps", config.rms_norm_eps, 1e-6),
        ("rope_type", (config.rope_parameters or {}).get("rope_type", "default"), "default"),
        ("quantization_dim", config.quantization_dim, config.hidden_size + semantic.hidden_size),
        ("semantic_model_config.model_type", semantic.model_type, "wav2vec2-bert"),
    ]
    differences = [
        f"`{name}` is {value}, where {wanted} is wanted" for name, value, wanted in checks if value != wanted
    ]
    if differences:
        raise ValueError("Expected a model with the settings of X-codec2, but got:\n- " + "\n- ".join(differences))


def _config(shape: Xcodec2Shape) -> tuple[Any, type]:
    """The configuration, and the class it is for."""
    from transformers import NeuCodecConfig, NeuCodecModel, Xcodec2Config, Xcodec2Model

    assert shape.semantic_config is not None
    settings = {
        "hidden_size": shape.channels,
        "intermediate_size": shape.hidden_channels,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_heads,
        "head_dim": shape.channels // shape.num_heads,
        "encoder_hidden_size": shape.base_channels,
        "downsampling_ratios": list(shape.strides),
        "activation_dropout": shape.dropout,
        "quantization_dim": shape.channels + shape.semantic_channels,
        "quantization_levels": list(shape.levels),
        "semantic_model_config": {**shape.semantic_config, "num_hidden_layers": shape.semantic_layers},
    }
    if shape.edge_padding:
        return Xcodec2Config(sampling_rate=shape.sample_rate, **settings), Xcodec2Model
    rates = {"input_sampling_rate": shape.sample_rate, "output_sampling_rate": shape.output_sample_rate}
    return NeuCodecConfig(**rates, **settings), NeuCodecModel


def _feature_extractor(shape: Xcodec2Shape, kind: type) -> dict[str, Any]:
    """As the extractor itself would write it; it needs torchaudio to be built, so it is not."""
    hop_length = 1
    for stride in shape.strides:
        hop_length *= stride
    return {
        "feature_extractor_type": kind.__name__.replace("Model", "FeatureExtractor"),
        "feature_size": 80,
        "frame_length": 400,
        "frame_shift": 160,
        "hop_length": hop_length,
        "num_mel_bins": 80,
        "padding_side": "right",
        "padding_value": 1.0,
        "return_attention_mask": True,
        "sampling_rate": shape.sample_rate,
        "stride": 2,
    }


def _folded(codec: CodecGenerator) -> dict[str, torch.Tensor]:
    """The state of the codec with norm and direction of each convolution multiplied into one weight."""
    state = {name: tensor.detach().cpu() for name, tensor in codec.state_dict().items()}
    ending = ".parametrizations.weight.original0"
    for module in [name.removesuffix(ending) for name in state if name.endswith(ending)]:
        for part in ("original0", "original1"):
            del state[f"{module}.parametrizations.weight.{part}"]
        state[f"{module}.weight"] = codec.get_submodule(module).weight.detach().cpu()
    return state
