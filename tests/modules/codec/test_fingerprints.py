"""Fingerprints of codecs: include settings that affect codes or audio, and are stable for files on disk."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from modules.codec.generator import CodecGenerator
from modules.codec.parts.acoustic_encoder import AcousticEncoder
from modules.codec.parts.filter_bank import KaldiFilterBank
from modules.codec.parts.quantizers import FiniteScalarQuantizer, SimVQ, Xcodec2Quantizer
from modules.codec.parts.semantic_encoder import NormalisedWaveform, SemanticEncoder
from modules.codec.parts.semantic_fusion import SemanticAcousticEncoder, SemanticAdapter
from modules.codec.parts.spectral_encoder import SpectralEncoder
from modules.codec.parts.transformer_decoder import TransformerDecoder
from modules.codec.parts.vocos_decoder import VocosDecoder
from modules.codec.parts.whisper_encoder import WhisperEncoder

SPECTRAL = {"sample_rate": 16000, "hop_length": 320, "channels": 8, "num_layers": 1, "hidden_channels": 8}
VOCOS = SPECTRAL
W2V_BERT = {
    "model_type": "wav2vec2-bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def filled(codec: CodecGenerator) -> CodecGenerator:
    """Weights that do not depend on a random generator."""
    with torch.no_grad():
        for number, (name, tensor) in enumerate(sorted(codec.state_dict().items())):
            if tensor.is_floating_point() and "quantizer.quantizer" not in name:
                steps = torch.arange(tensor.numel()).remainder(7).sub(3).div(8)
                tensor.copy_(steps.add(number % 5 / 16).reshape(tensor.shape))
    return codec.eval()


def small_codec(levels: tuple[int, ...] = (8, 8, 8, 8), decoder: Any = None, **encoder: Any) -> CodecGenerator:
    quantizer = FiniteScalarQuantizer(8, levels)
    return filled(CodecGenerator(SpectralEncoder(**SPECTRAL | encoder), quantizer, decoder or VocosDecoder(**VOCOS)))


def xcodec2(
    front_end: Any = None, levels: tuple[int, ...] = (4,) * 8, rate: int = 16000, appends: bool = True, **decoder: Any
) -> CodecGenerator:
    semantic = SemanticEncoder(front_end or KaldiFilterBank(), 2, 16, config=W2V_BERT)
    acoustic = AcousticEncoder(base_channels=2, channels=16)
    encoder = SemanticAcousticEncoder(acoustic, semantic, SemanticAdapter(16), appends)
    acoustic.sample_rate = rate
    decoding = TransformerDecoder(**{"channels": 32, "num_layers": 1, "hidden_channels": 32} | decoder)
    return filled(CodecGenerator(encoder, Xcodec2Quantizer(32, levels), decoding))


def test_stored_fingerprints_keep_their_bytes() -> None:
    """Guards against changed fingerprints of files on disk, whose token shards and language models would be rejected:
    these are the values of the first version, of the demo's, the five voices' and X-codec2's parts."""
    stored = {
        small_codec: ("b507aca4fc4cd078", "68fd7addce0a636a"),
        lambda: small_codec((7, 7, 7, 7, 5, 5)): ("6bf9ad1ddc93abe1", "9e69c02c220ef3d0"),
        xcodec2: ("d62c92abed3a47d0", "4ce692967df34859"),
    }
    for build, expected in stored.items():
        codec = build()
        assert (codec.fingerprint, codec.decoder_fingerprint) == expected


# Arguments of a part, besides those visible in the shape of a weight.
ENCODE_CHANGES: dict[str, Callable[[], CodecGenerator]] = {
    "fft_size": lambda: small_codec(fft_size=512),
    "hop_length": lambda: small_codec(hop_length=160),
    "sample_rate": lambda: small_codec(sample_rate=24000),
    "mels_per_code": lambda: small_codec(num_mels=40, mels_per_code=4),
    "levels": lambda: small_codec((8, 8, 8, 5)),
    "order of levels": lambda: small_codec((5, 8, 8, 8)),
}
XCODEC2_CHANGES: dict[str, Callable[[], CodecGenerator]] = {
    "edge_padding": lambda: xcodec2(KaldiFilterBank(edge_padding=0)),
    "num_stacked": lambda: xcodec2(KaldiFilterBank(num_mels=40, num_stacked=4)),
    "normalise": lambda: xcodec2(NormalisedWaveform(normalise=False, edge_padding=160)),
    "appends_frame": lambda: xcodec2(appends=False),
    "levels": lambda: xcodec2(levels=(4,) * 7 + (5,)),
    "acoustic": lambda: xcodec2(rate=24000),
}
DECODE_CHANGES: dict[str, Callable[[], CodecGenerator]] = {
    "num_heads": lambda: xcodec2(num_heads=8),
    "time_rotary": lambda: xcodec2(time_rotary=True),
    "num_groups": lambda: xcodec2(num_groups=16),
    "sample_rate": lambda: xcodec2(sample_rate=24000),
    "levels": lambda: xcodec2(levels=(4,) * 7 + (5,)),
    "hop_length": lambda: small_codec(decoder=VocosDecoder(**VOCOS | {"hop_length": 160})),
    "frames_per_code": lambda: small_codec(decoder=VocosDecoder(**VOCOS | {"frames_per_code": 2})),
}


def test_a_codecs_settings_change_its_fingerprints() -> None:
    """Guards against codes of another analysis window or other levels, and scores of another decoder's audio, that pass
    for this codec's because the weights are equal."""
    for changes, build, one in (
        (ENCODE_CHANGES, small_codec, "fingerprint"),
        (XCODEC2_CHANGES, xcodec2, "fingerprint"),
        (DECODE_CHANGES, None, "decoder_fingerprint"),
    ):
        plain = {getattr(made(), one) for made in ([build] if build else [small_codec, xcodec2])}
        values = [getattr(made(), one) for made in changes.values()]
        assert not plain & set(values), [name for name, value in zip(changes, values, strict=True) if value in plain]
        assert len(set(values)) == len(values)
    for decoder in (xcodec2(num_heads=8), xcodec2(time_rotary=True)):  # the codes are the same
        assert decoder.fingerprint == xcodec2().fingerprint


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        (SpectralEncoder, {"channels", "num_layers", "hidden_channels", "num_mels"}),
        (FiniteScalarQuantizer, {"channels"}),
        (Xcodec2Quantizer, {"channels"}),
        (VocosDecoder, {"fft_size", "channels", "num_layers", "hidden_channels"}),
        (TransformerDecoder, {"channels", "num_layers", "hidden_channels", "dropout"}),
        (KaldiFilterBank, set()),
        (NormalisedWaveform, set()),
        (SemanticEncoder, {"front_end", "num_layers", "channels", "model", "config"}),  # a buffer stores the network's
        (SemanticAcousticEncoder, {"acoustic", "semantic", "adapter"}),
        (WhisperEncoder, {"channels", "model", "window_seconds", "compute_type"}),  # one text holds the last three
        (SimVQ, {"channels", "codebook_size", "code_channels", "commitment_weight", "rotation_trick"}),
        (AcousticEncoder, {"strides", "base_channels", "channels", "weight_norm", "compile_activations"}),
    ],
)
def test_every_argument_of_a_part_is_shown_by_weights_or_settings(part: type, shown: set[str]) -> None:
    """Guards against a new argument that is in no fingerprint: it must be in the settings, or listed here as one that
    is visible in the shape or name of a weight or that changes no number."""
    names = ("encode_settings", "decode_settings")
    found = [one for name in names if isinstance(one := inspect.getattr_static(part, name, None), property)]
    bodies = [inspect.getsource(one.fget).split("->", 1)[1] for one in found]
    if any("self.decode_settings" in body for body in bodies):  # a quantizer's, which decode by what they encode by
        bodies.append(inspect.getsource(inspect.getattr_static(part, "decode_settings").fget).split("->", 1)[1])
    listed = "".join(bodies)
    for name in inspect.signature(part).parameters:
        assert name in shown or f"{name}=" in listed, name
