"""X-codec2 and NeuCodec as a CodecGenerator: their numbers, and what of a codec does not fit them.

Zhen Ye et al., arXiv 2502.04128; NeuCodec is X-codec2 with a 24 kHz decoder.
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from modules.codec.generator import CodecGenerator
from modules.codec.parts.acoustic_encoder import AcousticEncoder
from modules.codec.parts.filter_bank import KaldiFilterBank
from modules.codec.parts.quantizers import Xcodec2Quantizer
from modules.codec.parts.semantic_encoder import SemanticEncoder
from modules.codec.parts.semantic_fusion import SemanticAcousticEncoder, SemanticAdapter
from modules.codec.parts.transformer_decoder import TransformerDecoder
from modules.described import instantiate


@dataclass(frozen=True)
class Xcodec2Shape:
    """The numbers in which codecs of this family differ. The defaults are the released X-codec2's.

    Attributes:
        channels: Of the acoustic encoder's output and of the decoder.
        base_channels, strides: Of the acoustic encoder.
        levels: Of the quantizer.
        num_layers, num_heads, hidden_channels, dropout: Of the decoder.
        sample_rate, output_sample_rate: Hz.
        edge_padding: Of the filter bank: 160 in X-codec2, 0 in NeuCodec.
        semantic_layers: Layers of the semantic network that run.
        semantic_config: Its configuration, as transformers writes it; None for w2v-BERT 2.0's from the hub.
        weight_norm: Whether the acoustic encoder's weights are apart in norm and direction.
    """

    channels: int = 1024
    base_channels: int = 48
    strides: tuple[int, ...] = (2, 2, 4, 4, 5)
    levels: tuple[int, ...] = (4,) * 8
    num_layers: int = 12
    num_heads: int = 16
    hidden_channels: int = 4096
    dropout: float = 0.1
    sample_rate: int = 16000
    output_sample_rate: int = 16000
    edge_padding: int = 160
    semantic_layers: int = 16
    semantic_channels: int = 1024
    semantic_config: dict[str, Any] | None = None
    semantic_model: str = "facebook/w2v-bert-2.0"
    weight_norm: bool = True


def build_xcodec2(shape: Xcodec2Shape) -> CodecGenerator:
    """The codec with random weights."""
    codec: CodecGenerator = instantiate(describe_xcodec2(shape), "modules.codec", nn.Module)
    return codec


def describe_xcodec2(shape: Xcodec2Shape) -> dict[str, Any]:
    """The codec as a checkpoint of CodecModule describes it: {class_path, init_args}, plain data."""
    hop_length = math.prod(shape.strides)
    acoustic = _described(
        AcousticEncoder,
        sample_rate=shape.sample_rate,
        strides=list(shape.strides),
        base_channels=shape.base_channels,
        channels=shape.channels,
        weight_norm=shape.weight_norm,
    )
    semantic = _described(
        SemanticEncoder,
        front_end=_described(KaldiFilterBank, edge_padding=shape.edge_padding),
        num_layers=shape.semantic_layers,
        channels=shape.semantic_channels,
        model=shape.semantic_model,
        config=shape.semantic_config,
        hop_length=hop_length,
    )
    decoder = _described(
        TransformerDecoder,
        sample_rate=shape.output_sample_rate,
        hop_length=hop_length * shape.output_sample_rate // shape.sample_rate,
        channels=shape.channels,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        hidden_channels=shape.hidden_channels,
        dropout=shape.dropout,
    )
    adapter = _described(SemanticAdapter, channels=shape.semantic_channels)
    joint_channels = shape.semantic_channels + shape.channels
    return _described(
        CodecGenerator,
        encoder=_described(SemanticAcousticEncoder, acoustic=acoustic, semantic=semantic, adapter=adapter),
        quantizer=_described(Xcodec2Quantizer, channels=joint_channels, levels=list(shape.levels)),
        decoder=decoder,
    )


def _described(kind: type[nn.Module], **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def shape_of(codec: CodecGenerator) -> Xcodec2Shape:
    """The numbers of a codec. Raises ValueError, with the list of what differs, where it is not of this family."""
    differences = _differing_parts(codec) or _differing_settings(codec)
    if differences:
        lines = "\n".join(f"- {line}" for line in differences)
        raise ValueError(
            f"Expected `codec` to be one that transformers can express, but got one that differs:\n{lines}"
        )
    encoder, decoder = codec.encoder, codec.decoder
    return Xcodec2Shape(
        channels=decoder.channels,
        base_channels=encoder.acoustic.base_channels,
        strides=encoder.acoustic.strides,
        levels=codec.quantizer.levels,
        num_layers=len(decoder.layers),
        num_heads=decoder.num_heads,
        hidden_channels=decoder.layers[0].expand.out_features,
        dropout=decoder.dropout,
        sample_rate=encoder.sample_rate,
        output_sample_rate=decoder.sample_rate,
        edge_padding=encoder.semantic.front_end.edge_padding,
        semantic_layers=encoder.semantic.num_layers,
        semantic_channels=encoder.semantic.channels,
        semantic_config=encoder.semantic.network_config,
        weight_norm=encoder.acoustic.weight_norm,
    )


def _differing_parts(codec: CodecGenerator) -> list[str]:
    """Parts of another class: it or a subclass might compute something else, so the class itself is wanted."""
    encoder = codec.encoder
    wanted: list[tuple[str, Any, type[nn.Module]]] = [
        ("encoder", encoder, SemanticAcousticEncoder),
        ("quantizer", codec.quantizer, Xcodec2Quantizer),
        ("decoder", codec.decoder, TransformerDecoder),
    ]
    if type(encoder) is SemanticAcousticEncoder:
        wanted += [
            ("encoder.acoustic", encoder.acoustic, AcousticEncoder),
            ("encoder.semantic", encoder.semantic, SemanticEncoder),
            ("encoder.adapter", encoder.adapter, SemanticAdapter),
        ]
        if type(encoder.semantic) is SemanticEncoder:
            wanted.append(("encoder.semantic.front_end", encoder.semantic.front_end, KaldiFilterBank))
    return [
        f"`{name}` is {type(part).__name__}, where {kind.__name__} is wanted"
        for name, part, kind in wanted
        if type(part) is not kind
    ]


def _differing_settings(codec: CodecGenerator) -> list[str]:
    encoder, decoder = codec.encoder, codec.decoder
    front_end, acoustic = encoder.semantic.front_end, encoder.acoustic
    hop_length = acoustic.hop_length * decoder.sample_rate // encoder.sample_rate
    # The filter bank without edges is NeuCodec's, whose decoder may have another rate.
    output_sample_rate = encoder.sample_rate if front_end.edge_padding else decoder.sample_rate
    checks = [
        ("decoder.time_rotary", decoder.time_rotary, False),
        ("decoder.norm groups", decoder.prior[0].norm1.num_groups, 32),
        ("decoder.hop_length", decoder.hop_length, hop_length),
        ("decoder.sample_rate", decoder.sample_rate, output_sample_rate),
        ("decoder.channels", decoder.channels, acoustic.channels),
        ("encoder.sample_rate", encoder.sample_rate, 16000),
        ("encoder.appends_frame", encoder.appends_frame, True),
        ("encoder.adapter.channels", encoder.adapter.channels, encoder.semantic.channels),
        ("encoder.semantic.front_end.edge_padding", front_end.edge_padding, 160 if front_end.edge_padding else 0),
        ("encoder.semantic.front_end.num_mels", front_end.num_mels, 80),
        ("encoder.semantic.front_end.num_stacked", front_end.num_stacked, 2),
        ("encoder.semantic model_type", encoder.semantic.network_config.get("model_type"), "wav2vec2-bert"),
    ]
    return [f"`{name}` is {value}, where {wanted} is wanted" for name, value, wanted in checks if value != wanted]
