"""The parts of X-codec2's network against transformers, naive loops and themselves item by item."""

import math
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from modules.api import Codec
from modules.codec.parts.acoustic_encoder import AcousticEncoder
from modules.codec.parts.alias_free_snake import AliasFreeSnake
from modules.codec.parts.quantizers import FiniteScalarQuantizer, SimVQ, Xcodec2Quantizer
from modules.codec.parts.semantic_fusion import SemanticAdapter, SemanticDecoder
from modules.codec.parts.spectral import CentredMagnitude
from modules.codec.parts.transformer_decoder import TransformerDecoder, masked_group_norm
from modules.codec.training.discriminators import (
    DiscriminatorEnsemble,
    MultiPeriodDiscriminator,
    MultiResolutionDiscriminator,
)
from tests.toys.codec_references import noise_items, perturbed, small_codec

REPOSITORY = Path(__file__).resolve().parents[3]
LENGTHS = (9600, 4801, 640, 6400)


@pytest.mark.parametrize(
    "settings",
    [{}, {"time_rotary": True}, {"output_sample_rate": 24000, "edge_padding": 0}],
    ids=["xcodec2", "time_rotary", "neucodec"],
)
def test_a_batch_of_unequal_lengths_is_its_items_one_by_one(settings):
    """Guards against padding that leaks through convolutions, filters, norms or attention (as in the reference)."""
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


def test_every_encoder_is_independent_of_batching():
    """Guards against differences too small to change a code: latents are compared, in float64 without rounding."""
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
    """Guards against a bounded look-back in a decoder whose attention and norms cover everything."""
    codec = small_codec()
    codes_BS, num_codes_B = torch.randint(0, codec.facts.codebook_size, (2, 30)), torch.tensor([30, 24])
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
    """Guards against a skip that adds x where the released weights need relu(x)."""
    adapter = perturbed(SemanticAdapter(16), 1)
    blocks = nn.Sequential(nn.ReLU(inplace=True), adapter.first, nn.ReLU(inplace=True), adapter.second)
    states_BSC = torch.randn(2, 9, 16)
    hidden_BCS = adapter.input(states_BSC.transpose(1, 2))
    expected_BCS = adapter.output(blocks(hidden_BCS) + hidden_BCS)
    torch.testing.assert_close(adapter(states_BSC, torch.tensor([9, 9])), expected_BCS.transpose(1, 2))


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
    """Guards against confusing token shards of one with the other's."""
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
    recipe = yaml.safe_load((REPOSITORY / "configs/codec/xcodec2_model.yaml").read_text())
    first, second = recipe["init_args"]["discriminator"]["init_args"]["discriminators"]
    periods = MultiPeriodDiscriminator(**first["init_args"])
    spectra = MultiResolutionDiscriminator(**second["init_args"])
    assert sum(weight.numel() for weight in periods.parameters()) == 10_284_730
    assert sum(weight.numel() for weight in spectra.parameters()) == 18_097_936
    assert [magnitude.hop_length for magnitude in spectra.magnitudes] == [39, 63, 103, 167, 271, 438, 709, 1148]
    judgement = DiscriminatorEnsemble([periods, spectra])(torch.randn(1, 4800))
    assert len(judgement.scores) == 13
    assert all(len(maps) == 5 for maps in judgement.features)


@pytest.mark.parametrize("fft_size", [78, 206])
def test_the_discriminators_spectrograms_are_librosas(fft_size):
    """Guards against frames at another place or hop than the released discriminators see."""
    audio_T = noise_items(4001)[0][0]
    settings = {"n_fft": fft_size, "hop_length": fft_size // 2, "pad_mode": "reflect"}
    expected_FS = np.clip(np.abs(librosa.stft(audio_T.numpy(), **settings)) ** 2, 1e-7, 1e3) ** 0.5
    given_FS = CentredMagnitude(fft_size, fft_size // 2)(audio_T[None])[0]
    np.testing.assert_allclose(given_FS.numpy(), expected_FS, atol=1e-4)


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
