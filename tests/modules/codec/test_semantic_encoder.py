"""The frozen speech encoder and its log-mel input against transformers."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModel, HubertConfig, SeamlessM4TFeatureExtractor, Wav2Vec2Config, WavLMConfig

from modules.codec.parts.filter_bank import KaldiFilterBank
from modules.codec.parts.quantizers import Xcodec2Quantizer
from modules.codec.parts.semantic_encoder import NormalisedWaveform, SemanticEncoder
from tests.toys.codec_references import noise_items, perturbed, semantic_config, spread


@pytest.mark.parametrize("edge_padding", [0, 160])
def test_the_filter_bank_is_transformers_extractor_for_each_item_of_a_batch(edge_padding):
    """Guards against statistics that count padding, against float32, and against filters of another mel scale."""
    items = [torch.randn(16000) * 0.1, torch.randn(9001) * 1e-4 + 0.2, torch.randn(4000).sign(), torch.randn(1000)]
    tone = torch.sin(torch.arange(16000) * 0.2) * torch.linspace(0, 1, 16000)
    items += [tone, torch.cat([torch.zeros(4000), tone[:8000]])]
    lengths = [len(item) for item in items]
    batch_BT = torch.stack([F.pad(item, (0, 16000 - len(item)), value=0.7) for item in items])
    features_BSM, num_frames_B = KaldiFilterBank(edge_padding)(batch_BT, torch.tensor(lengths))
    for item, samples_T in enumerate(items):
        padded = F.pad(samples_T, (edge_padding, edge_padding)).numpy()
        given = SeamlessM4TFeatureExtractor()(padded, sampling_rate=16000, return_tensors="pt")
        expected_SM = given["input_features"][0][given["attention_mask"][0].bool()]
        assert int(num_frames_B[item]) == len(expected_SM)
        # The reference rounds to float32 before it normalises; near silence this affects the fourth digit.
        torch.testing.assert_close(features_BSM[item, : len(expected_SM)], expected_SM, atol=2e-3, rtol=1e-3)
        assert (features_BSM[item, : len(expected_SM)] - expected_SM).abs().mean() < 2e-5
        assert not features_BSM[item, len(expected_SM) :].any()


CONVOLUTIONS = {"conv_dim": [16] * 7, "conv_stride": [5, 2, 2, 2, 2, 2, 2], "conv_kernel": [10, 3, 3, 3, 3, 2, 2]}
TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, **CONVOLUTIONS}  # fmt: skip
SPEECH_ENCODERS = {
    "w2v-bert": semantic_config(num_hidden_layers=4),
    "wav2vec2": Wav2Vec2Config(**TINY).to_diff_dict(),
    "hubert, pre-norm": HubertConfig(**TINY, do_stable_layer_norm=True, feat_extract_norm="layer").to_diff_dict(),
    "wavlm": WavLMConfig(**TINY, num_buckets=20).to_diff_dict(),
}


@pytest.mark.parametrize("num_layers", [2, 4])
@pytest.mark.parametrize("kind", SPEECH_ENCODERS)
def test_the_cut_network_gives_the_states_of_the_whole_one(kind, num_layers, tmp_path):
    """Guards against a layer too many, the norm after the last layer, and layers that run unnecessarily.

    The whole network is read from a folder, as from a hub; a batch is compared with items one by one.
    """
    torch.manual_seed(1)
    whole = AutoModel.from_config(semantic_model_config(kind)).eval()
    whole.save_pretrained(tmp_path)
    front_end = KaldiFilterBank() if kind == "w2v-bert" else NormalisedWaveform()
    encoder = SemanticEncoder(front_end, num_layers, 32, str(tmp_path))
    audio_BT, num_samples_B = noise_items(9600, 6400, 9600)
    given = encoder(audio_BT, num_samples_B)
    assert len(encoder.network.encoder.layers) == num_layers
    for item, num_samples in enumerate(num_samples_B.tolist()):
        inputs, _ = front_end(audio_BT[item : item + 1, :num_samples], num_samples_B[item : item + 1])
        with torch.no_grad():
            expected_SC = whole(inputs, output_hidden_states=True).hidden_states[num_layers][0]
        assert int(given.num_frames_B[item]) == len(expected_SC) == num_samples // 320
        torch.testing.assert_close(given.latent_BSC[item, : len(expected_SC)], expected_SC, atol=2e-5, rtol=1e-4)


def semantic_model_config(kind):
    return AutoConfig.for_model(**SPEECH_ENCODERS[kind])


def test_the_frozen_network_is_out_of_reach_of_training():
    """Guards against dropout in a frozen network, its weights in an optimizer or an average, or twice in a file."""
    encoder = SemanticEncoder(KaldiFilterBank(), 2, 32, config=semantic_config(hidden_dropout=0.5)).train()
    assert not encoder.network.training
    assert not list(encoder.parameters())
    audio = noise_items(6400)
    assert torch.equal(encoder(*audio).latent_BSC, encoder(*audio).latent_BSC)
    average = copy.deepcopy(encoder)
    once, twice = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": encoder.state_dict()}, once)
    torch.save({"state_dict": average.state_dict(), "current_model_state": encoder.state_dict()}, twice)
    size = sum(tensor.nbytes for tensor in encoder.state_dict().values())
    assert len(twice.getvalue()) - len(once.getvalue()) < 0.5 * size


def test_weights_in_a_checkpoint_are_not_downloaded(monkeypatch, tmp_path):
    """Guards against a download, or reading `model`, if the checkpoint has weights and configuration."""
    AutoModel.from_config(semantic_model_config("w2v-bert")).save_pretrained(tmp_path)
    source = SemanticEncoder(KaldiFilterBank(), 2, 32, str(tmp_path))
    state = source.state_dict()

    def refuse(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    monkeypatch.setattr(AutoModel, "from_pretrained", refuse)
    fresh = SemanticEncoder(KaldiFilterBank(), 2, 32, "someone/some-model")
    fresh.load_state_dict(state)
    audio = noise_items(3200)
    assert torch.equal(fresh(*audio).latent_BSC, source(*audio).latent_BSC)
    del state["network.encoder.layers.1.ffn1.intermediate_dense.bias"]
    with pytest.raises(RuntimeError, match=r"ffn1\.intermediate_dense\.bias"):
        fresh.load_state_dict(state)


def test_codes_from_our_filter_bank_are_those_from_transformers_extractor(tiny_recordings):
    """Guards against features that are close but give other codes: equal on 99.99% of frames, others at a step."""
    encoder = SemanticEncoder(KaldiFilterBank(), 2, 32, config=semantic_config())
    network = perturbed(encoder.network, 0)
    quantizer = perturbed(Xcodec2Quantizer(32), 1)
    items = [recording.audio.samples_T for recording in tiny_recordings]
    items += [0.1 * torch.randn(160000) * torch.linspace(0, 1, 160000) for _ in range(18)]
    items = [samples_T[: len(samples_T) // 320 * 320] for samples_T in items]
    features = [
        SeamlessM4TFeatureExtractor()(F.pad(samples_T, (160, 160)).numpy(), sampling_rate=16000, return_tensors="pt")
        for samples_T in items
    ]
    expected = [network(given["input_features"]).last_hidden_state[0] for given in features]
    with torch.no_grad():
        spread(quantizer.project_in, torch.cat(expected))
    padded_BT = torch.stack([F.pad(samples_T, (0, 160000 - len(samples_T))) for samples_T in items])
    lengths_B = torch.tensor([len(samples_T) for samples_T in items])
    num_frames = num_equal = 0
    for rows in torch.arange(len(items)).split(6):
        given = encoder(padded_BT[rows], lengths_B[rows]).latent_BSC
        for row, states_SC in zip(rows.tolist(), given, strict=True):
            states_SC = states_SC[: len(expected[row])]
            ours_S = quantizer(states_SC[None]).codes_BS[0]
            theirs_S = quantizer(expected[row][None]).codes_BS[0]
            values_SD = torch.stack([quantizer.project_in(states_SC), quantizer.project_in(expected[row])])
            distance_SD = (values_SD[0, :, :, None] - torch.tensor([-0.8095, -0.2434, 0.4079])).abs().amin((1, 2))
            assert (distance_SD[ours_S != theirs_S] < 2e-3).all()
            num_frames, num_equal = num_frames + len(ours_S), num_equal + int((ours_S == theirs_S).sum())
    assert num_frames > 10_000
    assert num_equal >= 0.9999 * num_frames


def test_wrong_speech_encoders_are_refused():
    with pytest.raises(ValueError, match="num_layers"):
        SemanticEncoder(KaldiFilterBank(), 5, 32, config=semantic_config())
    with pytest.raises(ValueError, match="width of the speech encoder"):
        SemanticEncoder(KaldiFilterBank(), 2, 64, config=semantic_config())
    with pytest.raises(ValueError, match="type wav2vec2-bert"):
        SemanticEncoder(KaldiFilterBank(), 1, 64, config={"model_type": "whisper"})
    with pytest.raises(ValueError, match="can be fetched"):
        SemanticEncoder(KaldiFilterBank(), 1, 64, "no/such-model").network.eval()
