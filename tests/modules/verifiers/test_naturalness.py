"""Distill-MOS on damaged recordings, and UTMOS against transformers' wav2vec 2.0 and functions of torch."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soxr
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import Wav2Vec2Config, Wav2Vec2Model
from transformers.utils import is_torchaudio_available

from datamodules.sources.source import Recording
from modules.api import Audio, Candidate, Prompt
from modules.evaluation.opus_and_codec2 import Opus
from modules.verifiers.naturalness import DistillMos, Utmos, _distillmos

RATE = 16_000
PROMPT = Prompt("k", "text")


def candidate(audio: Audio) -> Candidate:
    return Candidate("k", 0, 0, torch.zeros(4, dtype=torch.int64), -8.0, True, audio)


# ------------------------------------------------------------------------------------------------------- Distill-MOS


def noisy(audio: Audio) -> Audio:
    """Noise at 20 dB."""
    noise_T = torch.randn(audio.samples_T.numel(), generator=torch.Generator().manual_seed(1))
    return Audio(audio.samples_T + 0.1 * audio.samples_T.square().mean().sqrt() * noise_T, RATE)


def clipped(audio: Audio) -> Audio:
    limit = 0.25 * float(audio.samples_T.abs().quantile(0.99))
    return Audio(audio.samples_T.clamp(-limit, limit), RATE)


def band_limited(audio: Audio) -> Audio:
    """Up to 2 kHz."""
    low = soxr.resample(audio.samples_T.numpy(), RATE, 4000)
    return Audio(torch.from_numpy(soxr.resample(low, 4000, RATE)), RATE)


def coarse(audio: Audio) -> Audio:
    """17 levels."""
    return Audio((8 * audio.samples_T / audio.samples_T.abs().max()).round() / 8, RATE)


def opus(audio: Audio) -> Audio:
    return Opus(6).resynthesise(audio)[0]


DAMAGES: list[Callable[[Audio], Audio]] = [noisy, clipped, band_limited, coarse, opus]


def test_damage_lowers_distill_mos(english_prompts: list[Recording]) -> None:
    """Guards against weights that are not loaded, another rate, and a score that follows something else than quality:
    of 20 damaged clips, at least 18 score below their recording."""
    verifier = DistillMos()
    clips = [recording.audio for recording in english_prompts[::5]]
    damaged = [damage(clip) for clip in clips for damage in DAMAGES]
    scores = verifier.score(PROMPT, [candidate(clip) for clip in [*clips, *damaged]])
    clean, lower = scores[: len(clips)], scores[len(clips) :].view(len(clips), len(DAMAGES))
    assert lower.numel() == 20 and int((lower < clean[:, None]).sum()) >= 18
    assert bool((scores >= 1).all() and (scores <= 5).all()) and float(clean.mean()) > 3.5


def test_no_torchaudio_is_left_behind() -> None:
    """Guards against an empty torchaudio that transformers, or a later import, takes for the real one."""
    for name in [name for name in sys.modules if name.split(".")[0] == "distillmos"]:
        del sys.modules[name]
    before = sys.modules.get("torchaudio")
    assert _distillmos().ConvTransformerSQAModel
    assert sys.modules.get("torchaudio") is before
    if before is None:
        is_torchaudio_available.cache_clear()
        assert not is_torchaudio_available()


def test_windows_of_distill_mos_are_counted() -> None:
    """Guards against a compute ledger that counts a long clip as one window; torch counts on tensors without data."""
    verifier = DistillMos()
    model = _distillmos().ConvTransformerSQAModel(load_weights=False).to("meta").eval()
    for seconds in (0.5, 7.68, 7.7, 9.0, 12.34):
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, round(seconds * RATE), device="meta"))
        assert verifier.flops(seconds) == counter.get_total_flops()
    assert verifier.flops(0.0) == 0.0


# ------------------------------------------------------------------------------------------------------------- UTMOS

NUM_LAYERS, FEED_FORWARD = 1, 64
NAMES = {
    "feature_projection.layer_norm": "layer_norm", "feature_projection.projection": "post_extract_proj",
    ".feed_forward.intermediate_dense.": ".fc1.", ".feed_forward.output_dense.": ".fc2.",
    ".attention.": ".self_attn.", "masked_spec_embed": "mask_emb",
    "pos_conv_embed.conv.bias": "pos_conv.0.bias",
    "pos_conv_embed.conv.parametrizations.weight.original0": "pos_conv.0.weight_g",
    "pos_conv_embed.conv.parametrizations.weight.original1": "pos_conv.0.weight_v",
}  # fmt: skip


def published_name(name: str) -> str:
    """fairseq's name of a tensor of transformers' Wav2Vec2Model."""
    if name.startswith("feature_extractor."):
        return name.replace(".conv.", ".0.").replace(".layer_norm.", ".2.")
    for theirs, published in NAMES.items():
        name = name.replace(theirs, published)
    if ".layers." in name:
        name = name.replace(".layer_norm.", ".self_attn_layer_norm.")
    return name


class Reference(nn.Module):
    """The published network by transformers and torch: listener 288 of domain 0."""

    def __init__(self) -> None:
        super().__init__()
        config = Wav2Vec2Config(num_hidden_layers=NUM_LAYERS, intermediate_size=FEED_FORWARD, layerdrop=0.0)
        self.wav2vec = Wav2Vec2Model(config)
        self.domains, self.listeners = nn.Embedding(3, 128), nn.Embedding(3000, 128)
        self.lstm = nn.LSTM(768 + 256, 512, batch_first=True, bidirectional=True)
        self.hidden, self.out = nn.Linear(1024, 2048), nn.Linear(2048, 1)

    def forward(self, samples_T: torch.Tensor) -> float:
        states_1SC = self.wav2vec(samples_T[None]).last_hidden_state
        told_C = torch.cat([self.domains.weight[0], self.listeners.weight[288]])
        told_1SC = told_C.expand(1, states_1SC.shape[1], 256)
        recurrent_1SC, _ = self.lstm(torch.cat([states_1SC, told_1SC], dim=2))
        return float(self.out(self.hidden(recurrent_1SC).relu()).mean() * 2 + 3)

    def published(self) -> dict[str, torch.Tensor]:
        """The tensors under the names of the published checkpoint."""
        parts = {
            "feature_extractors.1.embedding": self.domains, "output_layers.0.judge_embedding": self.listeners,
            "output_layers.0.decoder_rnn": self.lstm, "output_layers.1.net.0": self.hidden,
            "output_layers.1.net.3": self.out,
        }  # fmt: skip
        named = {f"{key}.{name}": tensor for key, part in parts.items() for name, tensor in part.state_dict().items()}
        for name, tensor in self.wav2vec.state_dict().items():
            named[f"feature_extractors.0.ssl_model.{published_name(name)}"] = tensor
        return named


@pytest.fixture(scope="module")
def reference() -> Reference:
    torch.manual_seed(0)
    network = Reference().eval().requires_grad_(False)
    for name, weight in network.named_parameters():
        if "pos_conv" in name or weight.ndim == 1:
            weight.add_(0.05 * torch.randn_like(weight))
    return network


def small_utmos(folder: Path, tensors: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> Utmos:
    """A verifier of these tensors; the package builds one narrow layer in place of its twelve."""
    from utmos_pytorch import utmos_torch

    small = utmos_torch.Wav2Vec2Config(encoder_layers=NUM_LAYERS, encoder_ffn_embed_dim=FEED_FORWARD)
    monkeypatch.setattr(utmos_torch, "Wav2Vec2Config", lambda: small)
    torch.save(tensors, folder / "utmos_state_dict.pt")
    return Utmos(str(folder))


def test_utmos_is_the_published_network(reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against another layer, listener, scale or rate than the published ones, and a score that depends on the
    other clips."""
    verifier = small_utmos(tmp_path, reference.published(), monkeypatch)
    generator = torch.Generator().manual_seed(3)
    clips = [0.3 * torch.randn(length, generator=generator) for length in (8000, 4800, 16000)]
    expected = [reference(clip_T) for clip_T in clips]
    scores = verifier.score(PROMPT, [candidate(Audio(clip_T, RATE)) for clip_T in [*clips, torch.zeros(RATE)]])
    assert scores[:3].tolist() == pytest.approx(expected, abs=1e-4) and math.isnan(scores[3])
    assert max(expected) - min(expected) > 1e-3, "a constant score would pass"
    assert verifier.facts.families == {"utmos", "wav2vec2"} and verifier.facts.settings == {}
    assert verifier.flops(2.0) == 2 * 2 * 50 * sum(weight.numel() for weight in verifier._network.parameters())


def test_a_file_that_lacks_a_tensor_is_refused(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against random weights in place of missing ones, which the package allows, and a missing file."""
    tensors = reference.published()
    del tensors["output_layers.1.net.3.weight"]
    verifier = small_utmos(tmp_path, tensors, monkeypatch)
    with pytest.raises(ValueError, match=r"to hold output_layers\.1\.net\.3\.weight \(1, 2048\), but got no such"):
        verifier.score(PROMPT, [candidate(Audio(torch.rand(RATE), RATE))])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"Expected utmos_state_dict\.pt in"):
        _ = Utmos(str(tmp_path / "empty")).facts


def test_the_package_has_the_published_tensors() -> None:
    """Guards against another size of the network than the published one: wav2vec 2.0 base with twelve layers."""
    from utmos_pytorch.utmos_torch import UTMOSModel

    with torch.device("meta"):
        names = UTMOSModel().state_dict()
        twelve = Wav2Vec2Model(Wav2Vec2Config()).state_dict()
    wav2vec = {f"feature_extractors.0.ssl_model.{published_name(name)}": tensor for name, tensor in twelve.items()}
    own = {name: tensor.shape for name, tensor in names.items() if name.startswith("feature_extractors.0.")}
    assert own == {name: tensor.shape for name, tensor in wav2vec.items() if not name.endswith("mask_emb")}
