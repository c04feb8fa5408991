"""The parts of X-codec2's network against transformers, naive loops and themselves item by item."""

import copy
import io
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, HubertConfig, SeamlessM4TFeatureExtractor, Wav2Vec2Config, WavLMConfig

from modules.api import Codec
from modules.codec.acoustic import AcousticEncoder
from modules.codec.activations import AliasFreeSnake
from modules.codec.discriminators import DiscriminatorEnsemble, MultiPeriodDiscriminator, MultiResolutionDiscriminator
from modules.codec.filter_bank import KaldiFilterBank
from modules.codec.fusion import SemanticAcousticEncoder, SemanticAdapter, SemanticDecoder
from modules.codec.generator import CodecGenerator
from modules.codec.quantizer import FiniteScalarQuantizer, SimVQ, Xcodec2Quantizer
from modules.codec.semantic import NormalisedWaveform, SemanticEncoder
from modules.codec.transformer import TransformerDecoder, masked_group_norm
from tests.codec_references import equalise, noise_items, perturbed, semantic_config, spread

LENGTHS = (9600, 4801, 640, 6400)


def small_codec(output_sample_rate: int = 16000, edge_padding: int = 160, time_rotary: bool = False) -> CodecGenerator:
    """X-codec2 with its weight norms, small; every parameter off its start; codes that spread over the book."""
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


@pytest.mark.parametrize(
    "settings",
    [{}, {"time_rotary": True}, {"output_sample_rate": 24000, "edge_padding": 0}],
    ids=["xcodec2", "time_rotary", "neucodec"],
)
def test_a_batch_of_unequal_lengths_is_its_items_one_by_one(settings):
    """Guards against padding that leaks through convolutions, filters, norms or attention (the reference's does)."""
    codec = small_codec(**settings)
    assert isinstance(codec, Codec)
    audio_BT, num_samples_B = noise_items(*LENGTHS)
    codes_BS, num_codes_B = codec.encode(audio_BT, num_samples_B)
    decoded_BT = codec.decode(codes_BS, num_codes_B)
    hop_length = codec.decoder.hop_length
    assert codes_BS.unique().numel() > 40, "a constant code would pass every comparison"
    for item, num_samples in enumerate(LENGTHS):
        num_codes = num_samples // 320 + ("edge_padding" not in settings)
        alone_BS, alone_B = codec.encode(audio_BT[item : item + 1, :num_samples], num_samples_B[item : item + 1])
        assert int(num_codes_B[item]) == int(alone_B) == num_codes
        assert torch.equal(alone_BS[0, :num_codes], codes_BS[item, :num_codes])
        heard_T = codec.decode(alone_BS[:, :num_codes], alone_B)[0]
        assert len(heard_T) == num_codes * hop_length
        torch.testing.assert_close(heard_T, decoded_BT[item, : num_codes * hop_length], atol=1e-5, rtol=1e-4)


def test_every_encoder_alone_gives_a_batch_what_its_items_get():
    """Guards against differences too small to move a code: latents are compared, in float64, where rounding is none."""
    encoder = small_codec().encoder.double()
    encoder.semantic.network.double()
    audio_BT, num_samples_B = noise_items(*LENGTHS)
    audio_BT = audio_BT.double()
    for part in (encoder, encoder.acoustic, encoder.semantic):
        together = part(audio_BT, num_samples_B)
        for item, num_samples in enumerate(LENGTHS):
            alone = part(audio_BT[item : item + 1, :num_samples], num_samples_B[item : item + 1])
            num_frames = int(alone.num_frames_B)
            assert num_frames == int(together.num_frames_B[item])
            expected, given = alone.latent_BSC[0, :num_frames], together.latent_BSC[item, :num_frames]
            torch.testing.assert_close(given, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("start_frame", [1, 17])
def test_a_decoded_tail_is_the_end_of_the_whole(start_frame):
    """Guards against a bounded look-back in a decoder whose attention and norms see everything."""
    codec = small_codec()
    codes_BS, num_codes_B = torch.randint(0, codec.codebook_size, (2, 30)), torch.tensor([30, 24])
    whole_BT = codec.decode(codes_BS, num_codes_B)
    torch.testing.assert_close(codec.decode(codes_BS, num_codes_B, start_frame), whole_BT[:, start_frame * 320 :])


def test_an_item_without_codes_does_not_become_nan():
    codec = small_codec()
    audio_BT = codec.decode(torch.zeros(2, 8, dtype=torch.long), torch.tensor([8, 0]))
    assert audio_BT.isfinite().all()


def test_forward_gives_what_the_losses_need_at_the_output_rate():
    """Guards against a missing gradient, and against 24 kHz audio cut to the length of the 16 kHz input."""
    codec = small_codec(24000, 0).requires_grad_(True)
    audio_BT, num_samples_B = noise_items(3200, 3000)
    made = codec(audio_BT, num_samples_B)
    assert made.audio_BT.shape == (2, 4800)
    states_BSC = codec.encoder.semantic(F.pad(audio_BT, (0, 320)) * (torch.arange(3520) < num_samples_B[:, None]),
                                        num_samples_B // 320 * 320 + 320).latent_BSC  # fmt: skip
    torch.testing.assert_close(made.semantic_BSC, states_BSC[:, : made.semantic_BSC.shape[1]])
    assert not made.semantic_BSC.requires_grad
    decoder = perturbed(SemanticDecoder(96, 32), 5)
    loss = F.mse_loss(decoder(made.latent_BSC, made.num_codes_B), made.semantic_BSC) + made.audio_BT.square().mean()
    loss.backward()
    without = [name for name, weight in codec.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not without


def test_the_activation_is_the_formula_between_resamplers():
    """Guards against wrong filters, edges or parameters: against a naive sum over taps, one sample at a time."""
    activation = AliasFreeSnake(2)
    with torch.no_grad():
        activation.alpha.copy_(torch.tensor([0.3, -0.5]))
        activation.beta.copy_(torch.tensor([-0.4, 0.6]))
    x_CT = torch.randn(2, 9)
    taps, naive = activation.taps.tolist(), torch.zeros(2, 9)
    for channel in range(2):
        x = x_CT[channel].tolist()
        doubled = [
            2 * sum(x[min(max(i, 0), 8)] * taps[k] for i in range(-9, 19) if 0 <= (k := t + 5 - 2 * i) < 12)
            for t in range(18)
        ]
        alpha, beta = (math.exp(weight[channel].item()) for weight in (activation.alpha, activation.beta))
        active = [value + math.sin(alpha * value) ** 2 / beta for value in doubled]
        for t in range(9):
            naive[channel, t] = sum(active[min(max(2 * t + k - 5, 0), 17)] * taps[k] for k in range(12))
    torch.testing.assert_close(activation(x_CT[None])[0].detach(), naive, atol=1e-6, rtol=1e-5)


def test_the_adapter_is_the_reference_module_with_its_in_place_relu():
    """Guards against a skip that adds x where the released weights want relu(x)."""
    adapter = perturbed(SemanticAdapter(16), 1)
    blocks = nn.Sequential(nn.ReLU(inplace=True), adapter.first, nn.ReLU(inplace=True), adapter.second)
    states_BSC = torch.randn(2, 9, 16)
    hidden_BCS = adapter.input(states_BSC.transpose(1, 2))
    expected_BCS = adapter.output(blocks(hidden_BCS) + hidden_BCS)
    torch.testing.assert_close(adapter(states_BSC, torch.tensor([9, 9])), expected_BCS.transpose(1, 2))


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
        # The reference rounds to float32 before it normalises; near silence that shows in the fourth digit.
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
def test_the_cut_network_says_what_the_whole_one_says_at_that_layer(kind, num_layers, tmp_path):
    """Guards against a layer too many, a norm that stands behind the last layer alone, and layers that run for nothing.

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
    from transformers import AutoConfig

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


def test_weights_in_a_checkpoint_are_not_asked_for_at_the_hub(monkeypatch, tmp_path):
    """Guards against a download, or a read of `model`, where the checkpoint holds weights and configuration."""
    AutoModel.from_config(semantic_model_config("w2v-bert")).save_pretrained(tmp_path)
    source = SemanticEncoder(KaldiFilterBank(), 2, 32, str(tmp_path))
    state = source.state_dict()

    def refuse(*_, **__):
        raise AssertionError("the hub was asked")

    from transformers import AutoConfig

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    monkeypatch.setattr(AutoModel, "from_pretrained", refuse)
    fresh = SemanticEncoder(KaldiFilterBank(), 2, 32, "someone/some-model")
    fresh.load_state_dict(state)
    audio = noise_items(3200)
    assert torch.equal(fresh(*audio).latent_BSC, source(*audio).latent_BSC)
    del state["network.encoder.layers.1.ffn1.intermediate_dense.bias"]
    with pytest.raises(RuntimeError, match=r"ffn1\.intermediate_dense\.bias"):
        fresh.load_state_dict(state)


def test_the_quantizers_steps_are_the_released_ones():
    """Guards against the bound applied once, which changes codes: -1.1497, -.3462, .4573 in place of these."""
    quantizer = Xcodec2Quantizer(8)
    with torch.no_grad():
        quantizer.project_in.weight.copy_(torch.eye(8))
        quantizer.project_in.bias.zero_()
    values_S = torch.linspace(-2, 2, 400001)
    codes_S = quantizer(F.pad(values_S[None, :, None], (0, 7))).codes_BS[0] % 4
    steps = values_S[1:][codes_S.diff() != 0]
    torch.testing.assert_close(steps, torch.tensor([-0.8095, -0.2434, 0.4079]), atol=2e-4, rtol=0)
    assert codes_S[0] == 0 and codes_S[-1] == 3
    single = FiniteScalarQuantizer(8, [4] * 8)
    single.load_state_dict(quantizer.state_dict())
    steps = values_S[1:][(single(F.pad(values_S[None, :, None], (0, 7))).codes_BS[0] % 4).diff() != 0]
    torch.testing.assert_close(steps, torch.tensor([-1.1497, -0.3462, 0.4573]), atol=2e-4, rtol=0)


def test_quantizers_with_the_same_weights_and_other_bounds_have_other_fingerprints():
    """Guards against token shards of one taken for the other's."""
    codec = small_codec()
    single = FiniteScalarQuantizer(96, [4] * 8)
    single.load_state_dict(codec.quantizer.state_dict())
    before, codec.quantizer = codec.fingerprint, single
    assert codec.fingerprint != before


def test_simvq_takes_the_nearest_code_and_leaves_padding_out_of_its_loss():
    """Guards against a wrong search, a loss without gradient to either side, and a loss that counts padding."""
    quantizer = SimVQ(6, 50, code_channels=3)
    x_BSC = torch.randn(2, 7, 6, requires_grad=True)
    quantized = quantizer(x_BSC)
    x_BSD = quantizer.project_in(x_BSC)
    book_ND = quantizer.quantizer.frozen_codebook @ quantizer.quantizer.code_transform.weight.T
    distances_BSN = (x_BSD[:, :, None] - book_ND).square().sum(-1)
    assert torch.equal(quantized.codes_BS, distances_BSN.argmin(-1))
    torch.testing.assert_close(quantized.commitment_BS, 1.25 * distances_BSN.amin(-1) / 3)
    torch.testing.assert_close(quantizer.lookup(quantized.codes_BS), quantized.latent_BSC)
    quantized.commitment_BS.sum().backward(retain_graph=True)
    assert x_BSC.grad.any() and quantizer.quantizer.code_transform.weight.grad.any()
    codec = small_codec()
    codec.quantizer = SimVQ(96, 64)
    audio_BT, num_samples_B = noise_items(3200, 640)
    made = codec(audio_BT, num_samples_B)
    by_frame = codec.quantizer(codec.encoder(audio_BT, num_samples_B).latent_BSC).commitment_BS
    torch.testing.assert_close(made.commitment_loss, torch.cat([by_frame[0, :11], by_frame[1, :3]]).mean())


def test_rotary_embedding_over_time_is_an_option_and_off_it_only_convolutions_know_time():
    """Guards against a rotary embedding that is on for released weights, or an option without effect."""
    latent_BSC = torch.randn(1, 12, 64)
    order = torch.randperm(12)
    for time_rotary in (False, True):
        decoder = perturbed(TransformerDecoder(16000, 320, 64, 2, 2, 96, time_rotary=time_rotary), 0)
        given = []
        for convolution in [module for module in decoder.modules() if isinstance(module, nn.Conv1d)]:
            convolution.weight[..., : convolution.kernel_size[0] // 2] = 0
            convolution.weight[..., convolution.kernel_size[0] // 2 + 1 :] = 0
        decoder.head.register_forward_hook(lambda module, inputs, output, given=given: given.append(output))
        decoder(latent_BSC, torch.tensor([12]))
        decoder(latent_BSC[:, order], torch.tensor([12]))
        assert torch.allclose(given[0][:, order], given[1], atol=1e-4) != time_rotary


def test_group_norm_with_a_mask_is_group_norm_of_the_items_own_frames():
    norm = perturbed(nn.GroupNorm(4, 16), 2)
    x_BCS = torch.randn(2, 16, 10)
    masked = masked_group_norm(x_BCS, norm, torch.arange(10) < torch.tensor([[10], [6]]))
    torch.testing.assert_close(masked[:1], norm(x_BCS[:1]))
    torch.testing.assert_close(masked[1:, :, :6], norm(x_BCS[1:, :, :6]))


def test_the_discriminators_of_the_paper_have_its_size():
    """Guards against other widths or kernels: the numbers are those of the released training code."""
    periods = MultiPeriodDiscriminator(output_kernel_size=2)
    spectra = MultiResolutionDiscriminator(centred=True)
    assert sum(weight.numel() for weight in periods.parameters()) == 10_284_730
    assert sum(weight.numel() for weight in spectra.parameters()) == 18_097_936
    assert [magnitude.hop_length for magnitude in spectra.magnitudes] == [39, 63, 103, 167, 271, 438, 709, 1148]
    judgement = DiscriminatorEnsemble([periods, spectra])(torch.randn(1, 4800))
    assert len(judgement.scores) == 13
    assert all(len(maps) == 5 for maps in judgement.features)


def test_the_network_has_the_released_size():
    """Guards against widths, kernels or biases that differ from the released ones (facts of the reference code)."""

    def size(module):
        return sum(weight.numel() for weight in module.parameters())

    with torch.device("meta"):
        decoder = TransformerDecoder()
        assert size(AcousticEncoder()) == 38_462_480
        assert size(SemanticAdapter()) == 12_584_960
        assert size(SemanticDecoder()) == 14_683_136
        assert size(decoder) == 183_553_024 + size(decoder.head)
    assert size(decoder.head) == 1_314_050


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="num_groups"):
        TransformerDecoder(channels=100)
    with pytest.raises(ValueError, match="num_layers"):
        SemanticEncoder(KaldiFilterBank(), 5, 32, config=semantic_config())
    with pytest.raises(ValueError, match="width of the speech encoder"):
        SemanticEncoder(KaldiFilterBank(), 2, 64, config=semantic_config())
    with pytest.raises(ValueError, match="type wav2vec2-bert"):
        SemanticEncoder(KaldiFilterBank(), 1, 64, config={"model_type": "whisper"})
    with pytest.raises(ValueError, match="can be fetched"):
        SemanticEncoder(KaldiFilterBank(), 1, 64, "no/such-model").network.eval()
