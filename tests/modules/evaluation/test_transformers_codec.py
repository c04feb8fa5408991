"""TransformersCodec against transformers' own encode and decode, called directly on random models saved to a folder."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
import transformers
from torch import Tensor

from modules.api import Audio
from modules.evaluation.systems import Resynthesiser
from modules.evaluation.transformers_codec import TransformersCodec
from tests.conftest import SAMPLE_RATE, speech_like

SMALL = {
    "num_filters": 4,
    "hidden_size": 16,
    "codebook_size": 64,
    "codebook_dim": 16,
    "upsampling_ratios": [8, 5, 4, 2],
}


def encodec() -> transformers.EncodecModel:
    """24 kHz, 75 Hz, 64 entries: 4 codebooks at 1.8 kbit/s."""
    config = transformers.EncodecConfig(**SMALL, target_bandwidths=[0.9, 1.8], num_lstm_layers=1)
    return transformers.EncodecModel(config)


def encodec_stereo() -> transformers.EncodecModel:
    """Like the 48 kHz model: two channels, windows of half a second with 1 % overlap, each with its loudness."""
    config = transformers.EncodecConfig(
        **{**SMALL, "codebook_size": 16},
        target_bandwidths=[0.6, 1.2],
        audio_channels=2,
        normalize=True,
        chunk_length_s=0.5,
        overlap=0.01,
        num_lstm_layers=1,
        norm_type="time_group_norm",
        use_causal_conv=False,
    )
    return transformers.EncodecModel(config)


def dac() -> transformers.DacModel:
    """16 kHz, 50 Hz, 3 codebooks of 32."""
    config = transformers.DacConfig(
        encoder_hidden_size=4, decoder_hidden_size=64, downsampling_ratios=[2, 4, 5, 8], n_codebooks=3, codebook_size=32
    )
    return transformers.DacModel(config)


def mimi() -> transformers.MimiModel:
    """24 kHz, 12.5 Hz, 4 codebooks of 32."""
    config = transformers.MimiConfig(
        num_filters=4, hidden_size=32, codebook_size=32, codebook_dim=16, num_quantizers=4, upsample_groups=32,
        vector_quantization_hidden_dimension=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=32, upsampling_ratios=[8, 6, 5, 4],
    )  # fmt: skip
    return transformers.MimiModel(config)


def xcodec() -> transformers.XcodecModel:
    """16 kHz, 50 Hz, 3 codebooks of 1024: 1.5 kbit/s."""
    acoustic = transformers.DacConfig(encoder_hidden_size=4, decoder_hidden_size=64, downsampling_ratios=[8, 5, 4, 2])
    semantic = transformers.HubertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8] * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, layerdrop=0.0,
    )  # fmt: skip
    config = transformers.XcodecConfig(
        target_bandwidths=[0.5, 1.5], acoustic_model_config=acoustic, semantic_model_config=semantic
    )
    return transformers.XcodecModel(config)


MODELS: dict[str, Callable[[], Any]] = {
    "encodec": encodec, "encodec_stereo": encodec_stereo, "dac": dac, "mimi": mimi, "xcodec": xcodec
}  # fmt: skip


def spread(network: Any) -> Any:
    """Random weights that use many codes: codebooks at the scale of their inputs (transformers initialises EnCodec's
    with zero), an encoder that depends on its input rather than its biases."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if name.endswith(("embed", "embed_sum", "codebook.weight")):
            tensor.copy_(0.03 * torch.randn(tensor.shape, generator=generator))
        elif name.startswith("encoder.") and name.endswith("bias"):
            tensor.zero_()
        elif name == "encoder.layers.0.conv.parametrizations.weight.original0":
            tensor.mul_(20)
        elif name.endswith("cluster_usage"):
            tensor.fill_(1.0)
    return network.eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for number, (name, make) in enumerate(MODELS.items()):
        torch.manual_seed(number)
        spread(make()).save_pretrained(root / name)
    return {name: root / name for name in MODELS}


@pytest.fixture(scope="module")
def speech() -> Audio:
    """1.4 s at 16 kHz whose length is not a multiple of any frame."""
    samples_T = speech_like(["seven", "one", "nine", "four", "two"], 120.0, torch.Generator().manual_seed(3)).float()
    return Audio(samples_T[: 16000 * 7 // 5 - 37], SAMPLE_RATE)


@torch.no_grad()
def reference(name: str, folder: Path, audio_T: Tensor) -> tuple[np.ndarray, float]:
    """Results of transformers' own calls for mono audio at the model's rate, and the bits counted by hand."""
    network = transformers.AutoModel.from_pretrained(folder).eval()
    if name.startswith("encodec"):
        extractor = transformers.EncodecFeatureExtractor(sampling_rate=network.config.sampling_rate)
        input_1CT = extractor(audio_T.numpy(), sampling_rate=24000, return_tensors="pt")["input_values"]
        input_1CT = input_1CT.repeat(1, network.config.audio_channels, 1)
        out = network.encode(input_1CT, bandwidth=network.config.target_bandwidths[-1])
        decoded = network.decode(out.audio_codes, out.audio_scales, last_frame_pad_length=out.last_frame_pad_length)
        num_codes = sum(
            window.shape[1] * (window.shape[2] - (out.last_frame_pad_length if last else 0))
            for last, window in zip([*[False] * (len(out.audio_codes) - 1), True], out.audio_codes, strict=True)
        )
        num_bits = num_codes * math.log2(network.config.codebook_size)
        num_bits += 32 * len(out.audio_codes) if network.config.normalize else 0
        return decoded.audio_values[0].mean(0).numpy(), num_bits
    if name == "mimi":
        codes = network.encode(audio_T[None, None]).audio_codes
        return network.decode(codes).audio_values[0, 0].numpy(), codes.numel() * 5
    extractor = transformers.DacFeatureExtractor(sampling_rate=16000, hop_length=320)
    input_1CT = extractor(audio_T.numpy(), sampling_rate=16000, return_tensors="pt")["input_values"]
    codes = network.encode(input_1CT).audio_codes
    decoded = network.decode(audio_codes=codes).audio_values
    return decoded.reshape(-1).numpy(), codes.numel() * (5 if name == "dac" else 10)


@pytest.mark.parametrize("name", list(MODELS))
def test_a_codec_gives_what_transformers_gives(name: str, folders: dict[str, Path], speech: Audio) -> None:
    """Guards against another rate, padding, bandwidth or channel than the model's own, counting codes of padding, and
    output that is not cut to the input's length."""
    codec = TransformersCodec(str(folders[name]), device="cpu")
    assert isinstance(codec, Resynthesiser) and codec.facts.name == name
    heard, num_bits = codec.resynthesise(speech)
    rate = codec.sample_rate
    at_rate_T = torch.from_numpy(np.clip(soxr.resample(speech.samples_T.numpy(), SAMPLE_RATE, rate), -1, 1))
    expected_T, expected_bits = reference(name, folders[name], at_rate_T)
    assert num_bits == pytest.approx(expected_bits) and num_bits > 0
    back_T = np.clip(soxr.resample(expected_T, rate, SAMPLE_RATE), -1, 1) if rate != SAMPLE_RATE else expected_T
    length = speech.samples_T.numel()
    expected_T = np.zeros(length, dtype=np.float32)
    expected_T[: min(length, len(back_T))] = back_T[:length]
    assert heard.sample_rate == SAMPLE_RATE and heard.samples_T.shape == (length,)
    np.testing.assert_allclose(heard.samples_T.numpy(), expected_T, atol=1e-5)
    assert expected_T.std() > 1e-6, "the random model is silent: nothing was compared"
    codes_QS = codec.compress(speech).codes_QS
    assert codes_QS.unique().numel() > 4
    num_frames = codec.facts.frame_rate * speech.seconds
    assert num_frames - 1 <= codes_QS.shape[1] <= 1.01 * num_frames + 4  # EnCodec's windows overlap


@pytest.mark.parametrize(("name", "total"), [("encodec", 4), ("dac", 3), ("mimi", 4), ("xcodec", 3)])
def test_fewer_codebooks_are_the_first_of_all(name: str, total: int, folders: dict[str, Path], speech: Audio) -> None:
    """Guards against bits that do not decrease with the codebooks, and against decoding with those that were not
    sent."""
    whole, first = TransformersCodec(str(folders[name])), TransformersCodec(str(folders[name]), num_codebooks=1)
    assert (whole.facts.num_codebooks, first.facts.num_codebooks) == (total, 1)
    assert first.facts.name == f"{name} x1"
    all_codes, one = whole.compress(speech), first.compress(speech)
    assert one.num_bits == all_codes.num_bits / total
    assert torch.equal(one.codes_QS, all_codes.codes_QS[:1])
    assert not torch.allclose(first.decompress(one).samples_T, whole.decompress(all_codes).samples_T, atol=1e-7)
    with pytest.raises(ValueError, match=f"`num_codebooks` to be at most {total}, .*but got 99"):
        TransformersCodec(str(folders[name]), num_codebooks=99).compress(speech)


def test_the_layouts_of_the_published_models(tmp_path: Path) -> None:
    """Guards against columns that differ from the papers': tokens per second, codebook, layers, rate."""
    published = {
        "encodec_24khz": (transformers.EncodecConfig(), 8, (1024, 8, 75.0, 600)),
        "dac_16khz": (transformers.DacConfig(downsampling_ratios=[2, 4, 5, 8], n_codebooks=12), 0, (1024, 12, 50, 600)),
        "mimi": (transformers.MimiConfig(), 8, (2048, 8, 12.5, 100)),
        "xcodec": (transformers.XcodecConfig(), 2, (1024, 2, 50, 100)),
    }
    for name, (config, num_codebooks, expected) in published.items():
        config.save_pretrained(tmp_path / name)
        facts = TransformersCodec(str(tmp_path / name), num_codebooks).facts
        got = facts.codebook_size, facts.num_codebooks, facts.frame_rate, facts.tokens_per_second
        assert got == pytest.approx(expected), name


def test_another_kind_of_model_is_refused(tmp_path: Path, speech: Audio) -> None:
    """Guards against a traceback from inside a model that is not a codec of this kind."""
    transformers.Xcodec2Config().save_pretrained(tmp_path / "model")
    with pytest.raises(
        ValueError, match=r"dac, encodec, mimi, xcodec, but got xcodec2 .*modules.codec.formats.checkpoints"
    ):
        TransformersCodec(str(tmp_path / "model")).resynthesise(speech)
    with pytest.raises(ValueError, match="`num_codebooks` to be at least 0"):
        TransformersCodec("x", num_codebooks=-1)
