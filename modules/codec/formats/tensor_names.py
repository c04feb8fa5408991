"""The names of X-codec2's tensors in three places: in this codec, in the released files, in transformers' models.

Pure functions over dictionaries of tensors. Released files come in two spellings, both read: `weight_g`, `weight_v` and
`act.beta` (the training code), `parametrizations.weight.original0/1` and `act.bias` (the package). In the package the
second parameter of SnakeBeta is called bias: a loader that passes over unknown keys leaves it at 0 and sounds wrong, so
here every key finds its place or is an error.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from modules.codec.parts.snake import NUM_TAPS, kaiser_sinc_filter

Tensors = Mapping[str, Tensor]

# Ours, released, transformers. {i} counts blocks or layers, {u} residual units, from 0; {j} is i + 1, {v} is u + 1.
FIXED = (
    ("encoder.adapter.input", "SemanticEncoder_module.initial_conv", "semantic_adapter.conv1"),
    ("encoder.adapter.first", "SemanticEncoder_module.residual_blocks.1", "semantic_adapter.conv2"),
    ("encoder.adapter.second", "SemanticEncoder_module.residual_blocks.3", "semantic_adapter.conv3"),
    ("encoder.adapter.output", "SemanticEncoder_module.final_conv", "semantic_adapter.conv4"),
    ("encoder.acoustic.input_convolution", "CodecEnc.conv_blocks.0", "acoustic_encoder.conv1"),
    ("encoder.acoustic.final_activation", "CodecEnc.conv_final_block.0", "acoustic_encoder.snake1"),
    ("encoder.acoustic.final_convolution", "CodecEnc.conv_final_block.1", "acoustic_encoder.conv2"),
    ("encoder.fusion", "fc_prior", "fc_encoder"),
    ("quantizer.project_in", "generator.quantizer.project_in", "quantizer.project_in"),
    ("quantizer.project_out", "generator.quantizer.project_out", "quantizer.project_out"),
    ("bridge", "fc_post_a", "acoustic_decoder.fc"),
    ("decoder.embed", "generator.backbone.embed", "acoustic_decoder.embed"),
    ("decoder.norm", "generator.backbone.final_layer_norm", "acoustic_decoder.norm"),
    ("decoder.head", "generator.head.out", "acoustic_decoder.head.linear"),
)
BLOCK = (
    ("encoder.acoustic.blocks.{i}.activation", "CodecEnc.conv_blocks.{j}.block.3", "acoustic_encoder.block.{i}.snake1"),
    ("encoder.acoustic.blocks.{i}.convolution", "CodecEnc.conv_blocks.{j}.block.4", "acoustic_encoder.block.{i}.conv1"),
)
UNIT_BASES = (
    "encoder.acoustic.blocks.{i}.units.{u}",
    "CodecEnc.conv_blocks.{j}.block.{u}.block",
    "acoustic_encoder.block.{i}.res_unit{v}",
)
UNIT = (
    ("activation1", "0", "snake1"),
    ("convolution1", "1", "conv1"),
    ("activation2", "2", "snake2"),
    ("convolution2", "3", "conv2"),
)
CONVOLUTION_BASES = ("decoder.{s}.{i}", "generator.backbone.{s}_net.{i}", "acoustic_decoder.{s}_net.{i}")
CONVOLUTION = (
    ("norm1", "norm1", "norm1"),
    ("convolution1", "conv1", "conv1"),
    ("norm2", "norm2", "norm2"),
    ("convolution2", "conv2", "conv2"),
)
LAYER_BASES = ("decoder.layers.{i}", "generator.backbone.transformers.{i}", "acoustic_decoder.layers.{i}")
LAYER = (
    ("attention_norm", "att_norm", "input_layernorm"),
    ("network_norm", "ffn_norm", "post_attention_layernorm"),
    # In transformers queries, keys and values are apart, and the name with qkv_proj is used in this file alone.
    ("attention.queries_keys_values", "att.c_attn", "self_attn.qkv_proj"),
    ("attention.output", "att.c_proj", "self_attn.o_proj"),
    ("expand", "mlp.fc1", "mlp.fc1"),
    ("project", "mlp.fc2", "mlp.fc2"),
)
NETWORK = "encoder.semantic.network.", "semantic_model.", "semantic_encoder."
TRAINING_ONLY = (
    "fc_post_s.",
    "SemanticDecoder_module.",
    "discriminator.",
    "spec_discriminator.",
    "criteria.",
    "model_spk.",
)
OURS, RELEASED, TRANSFORMERS = 0, 1, 2


def module_names(num_blocks: int, num_layers: int) -> list[tuple[str, str, str]]:
    """Ours, released, transformers: the names of all modules that hold tensors, the semantic network's left out."""
    names = list(FIXED)
    for i in range(num_blocks):
        names += [tuple(name.format(i=i, j=i + 1) for name in row) for row in BLOCK]
        for u in range(3):
            bases = [base.format(i=i, j=i + 1, u=u, v=u + 1) for base in UNIT_BASES]
            names += _joined(bases, UNIT)
    for s in ("prior", "post"):
        for i in range(2):
            names += _joined([base.format(s=s, i=i) for base in CONVOLUTION_BASES], CONVOLUTION)
    for i in range(num_layers):
        names += _joined([base.format(i=i) for base in LAYER_BASES], LAYER)
    return names


def from_released(tensors: Tensors, num_semantic_layers: int) -> tuple[dict[str, Tensor], list[str]]:
    """Released tensors by our names, and the keys that have no place. Raises ValueError for other filters than ours.

    Left out by intent: layers of the semantic network above `num_semantic_layers`, and TRAINING_ONLY.
    """
    found = renamed({_plain_key(key): tensor for key, tensor in tensors.items()}, RELEASED, OURS)
    kept, surplus = {}, []
    for key, (name, tensor) in found.items():
        layer = re.match(r"semantic_model\.encoder\.layers\.(\d+)\.", key)
        if key.startswith(TRAINING_ONLY) or (layer and int(layer[1]) >= num_semantic_layers):
            continue
        if _is_constant(key):
            _check_constant(key, tensor)
        elif name is None:
            surplus.append(key)
        else:
            kept[name] = tensor
    return kept, surplus


def training_networks(tensors: Tensors) -> dict[str, Tensor]:
    """The discriminators and the semantic decoder of a released training's checkpoint, by their names in CodecModule;
    empty where there are none.

    Discriminators are an ensemble of the multi-period and the multi-resolution one, in this order.
    """
    adapter = {row[RELEASED].partition(".")[2]: row[OURS].rpartition(".")[2] for row in FIXED[:4]}
    found = {}
    for key, tensor in tensors.items():
        plain = _plain_key(key)
        if match := re.match(r"discriminator\.discriminators\.(\d+)\.convs\.(\d+)\.0\.(.+)", plain):
            found[f"discriminator.discriminators.0.stacks.{match[1]}.layers.{match[2]}.{match[3]}"] = tensor
        elif match := re.match(r"discriminator\.discriminators\.(\d+)\.output_conv\.(.+)", plain):
            last = _count_layers(tensors, rf"discriminator\.discriminators\.{match[1]}\.convs\.(\d+)\.")
            found[f"discriminator.discriminators.0.stacks.{match[1]}.layers.{last}.{match[2]}"] = tensor
        elif match := re.match(r"spec_discriminator\.model\.disc_(\d+)\.model\.layer_(\d+)\.(?:0\.)?(.+)", plain):
            found[f"discriminator.discriminators.1.stacks.{match[1]}.layers.{match[2]}.{match[3]}"] = tensor
        elif match := re.match(r"fc_post_s\.(.+)", plain):
            found[f"semantic_decoder.project.{match[1]}"] = tensor
        elif match := re.match(r"SemanticDecoder_module\.(.+)\.(\w+)$", plain):
            found[f"semantic_decoder.adapter.{adapter.get(match[1], match[1])}.{match[2]}"] = tensor
    return found


def from_transformers(tensors: Tensors, num_heads: int) -> tuple[dict[str, Tensor], list[str]]:
    """transformers' tensors by our names, and the keys that have no place."""
    joined = dict(tensors)
    for key in [key for key in tensors if key.endswith(".self_attn.q_proj.weight")]:
        parts = [joined.pop(key.replace("q_proj", part), None) for part in ("q_proj", "k_proj", "v_proj")]
        if any(part is None for part in parts):
            raise ValueError(f"Expected q_proj, k_proj and v_proj beside each other, but got only some of `{key}`.")
        queries, keys = (_pairs_interleaved(part, num_heads) for part in parts[:2])
        joined[key.replace("q_proj", "qkv_proj")] = torch.cat([queries, keys, parts[2]])
    found = renamed({key.replace(".act.", "."): tensor for key, tensor in joined.items()}, TRANSFORMERS, OURS)
    return {name: tensor for name, tensor in found.values() if name}, [
        key for key, (name, _) in found.items() if not name
    ]


def to_transformers(tensors: Tensors, num_heads: int) -> dict[str, Tensor]:
    """Our tensors, weight norm folded, by transformers' names, without the semantic network's configuration."""
    found = renamed(
        {key: value for key, value in tensors.items() if key != "encoder.semantic.config"}, OURS, TRANSFORMERS
    )
    given = {}
    for key, (name, tensor) in found.items():
        assert name is not None, key
        if name.endswith("self_attn.qkv_proj.weight"):
            queries, keys, values = tensor.chunk(3)
            given[name.replace("qkv_proj", "q_proj")] = _pairs_in_halves(queries, num_heads)
            given[name.replace("qkv_proj", "k_proj")] = _pairs_in_halves(keys, num_heads)
            given[name.replace("qkv_proj", "v_proj")] = values
        else:
            given[re.sub(r"(snake\d)\.(alpha|beta)$", r"\1.act.\2", name)] = tensor
    return {name: tensor.contiguous() for name, tensor in given.items()}


def renamed(tensors: Tensors, source: int, target: int) -> dict[str, tuple[str | None, Tensor]]:
    """For each key of `source` naming its key in `target` naming, None where there is none, and the tensor."""
    names = {row[source]: row[target] for row in module_names(*(_count(tensors, source, part) for part in (0, 1)))}
    found: dict[str, tuple[str | None, Tensor]] = {}
    for key, tensor in tensors.items():
        module, leaf = key, ""
        while module and module not in names:
            module, _, last = module.rpartition(".")
            leaf = f".{last}{leaf}"
        if module:
            found[key] = (names[module] + leaf, tensor)
        elif key.startswith(NETWORK[source]):
            found[key] = (NETWORK[target] + key.removeprefix(NETWORK[source]), tensor)
        else:
            found[key] = (None, tensor)
    return found


def _joined(bases: Sequence[str], rows: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    return [tuple(f"{base}.{name}" for base, name in zip(bases, row, strict=True)) for row in rows]


def _count(tensors: Tensors, naming: int, part: int) -> int:
    """How many blocks (part 0) or layers (part 1) there are."""
    base = (BLOCK[0][naming].partition("{")[0], LAYER_BASES[naming].partition("{")[0])[part]
    numbers = {int(match[1]) for key in tensors if (match := re.match(re.escape(base) + r"(\d+)\.", key))}
    # Number 0 of the released blocks is the first convolution.
    return max(numbers, default=-1) + 1 - (part == 0 and naming == RELEASED)


def _count_layers(tensors: Tensors, pattern: str) -> int:
    """One more than the largest number in the keys that begin with a pattern."""
    return max((int(match[1]) for key in tensors if (match := re.match(pattern, key))), default=-1) + 1


def _plain_key(key: str) -> str:
    """Both released spellings as one, and as ours below the module."""
    key = re.sub(r"\.weight_g$", ".parametrizations.weight.original0", key)
    key = re.sub(r"\.weight_v$", ".parametrizations.weight.original1", key)
    return re.sub(r"\.act\.(alpha|beta|bias)$", lambda match: f".{match[1].replace('bias', 'beta')}", key)


def _is_constant(key: str) -> bool:
    return (key.startswith("CodecEnc.") and key.endswith(".filter")) or key == "generator.head.istft.window"


def _check_constant(key: str, tensor: Tensor) -> None:
    """Filters and windows are computed here, not loaded: they must be those of the file, as its precision has them."""
    ours = torch.hann_window(len(tensor)) if key.endswith("window") else kaiser_sinc_filter(0.25, 0.3, NUM_TAPS)
    tolerance = max(1e-5, torch.finfo(tensor.dtype).eps)
    if tensor.numel() != ours.numel() or not torch.allclose(tensor.flatten().float(), ours, atol=tolerance):
        raise ValueError(f"Expected `{key}` to be the filter or window of X-codec2, but got another one.")


def _pairs_in_halves(weight: Tensor, num_heads: int) -> Tensor:
    """Rows of a head: from pairs side by side to first members, then second members, as transformers' rotary wants."""
    return weight.unflatten(0, (num_heads, -1, 2)).transpose(1, 2).reshape(weight.shape)


def _pairs_interleaved(weight: Tensor, num_heads: int) -> Tensor:
    return weight.unflatten(0, (num_heads, 2, -1)).transpose(1, 2).reshape(weight.shape)
