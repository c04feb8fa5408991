"""The codec's parts against librosa, torch.istft, numpy and themselves item by item."""

import librosa
import numpy as np
import pytest
import torch

from modules.api import Codec
from modules.codec.generator import CodecGenerator
from modules.codec.parts.quantizers import FiniteScalarQuantizer
from modules.codec.parts.spectral import InverseSTFT, mel_filters
from modules.codec.parts.spectral_encoder import SpectralEncoder
from modules.codec.parts.vocos_decoder import VocosDecoder
from modules.codec.training.losses import (
    MultiResolutionMelLoss,
    adversarial_losses,
    by_family,
    discriminator_losses,
    feature_matching_loss,
    weighted_sum,
    weights_of,
)
from tests.toys.codec_references import librosa_distances


def tiny_codec(hop_length: int = 320, frames_per_code: int = 1) -> CodecGenerator:
    torch.manual_seed(0)
    sizes = {"channels": 32, "num_layers": 2, "hidden_channels": 48}
    codec = CodecGenerator(
        SpectralEncoder(16000, hop_length, **sizes),
        FiniteScalarQuantizer(32, [4, 4, 4]),
        VocosDecoder(16000, hop_length, frames_per_code=frames_per_code, **sizes),
    ).eval()
    with torch.no_grad():  # like trained parameters: none is at its neutral initial value
        for weight in codec.parameters():
            weight += 0.3 * torch.randn_like(weight) / weight.shape[-1] ** 0.5
    return codec


def speechlike(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a varying envelope, zero beyond each length except for garbage that a codec must ignore."""
    generator = torch.Generator().manual_seed(1)
    audio = 0.3 * torch.randn(len(lengths), max(lengths), generator=generator)
    return audio * torch.linspace(0.1, 1, max(lengths)), torch.tensor(lengths)


@pytest.mark.parametrize(("fft_size", "num_mels"), [(512, 40), (1024, 80), (2048, 320)])
def test_mel_filters_are_librosas(fft_size, num_mels):
    expected = librosa.filters.mel(sr=16000, n_fft=fft_size, n_mels=num_mels).T
    np.testing.assert_allclose(mel_filters(16000, fft_size, num_mels).numpy(), expected, atol=1e-6)


def test_inverse_stft_is_torchs():
    """Guards against a shift or a wrong envelope in our overlap-add; the reference uses centre padding."""
    fft_size, hop, num_frames = 1280, 320, 30
    spectrum_FS = torch.randn(fft_size // 2 + 1, num_frames, dtype=torch.complex64)
    spectrum_FS[[0, -1]] = spectrum_FS[[0, -1]].real.to(torch.complex64)
    expected = torch.istft(spectrum_FS, fft_size, hop, window=torch.hann_window(fft_size), center=True)
    ours = InverseSTFT(fft_size, hop)(spectrum_FS.T[None], torch.ones(1, num_frames, dtype=torch.bool))[0]
    # "same" padding keeps 160 more samples at each end than centre padding does.
    torch.testing.assert_close(ours[160 : 160 + len(expected)][400:-400], expected[400:-400], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("hop_length", "frames_per_code"), [(320, 1), (640, 2)])
def test_batches_equal_single_items(hop_length, frames_per_code):
    """Guards against padding that leaks into codes or audio (the reference codec's batches differ)."""
    codec = tiny_codec(hop_length, frames_per_code)
    assert isinstance(codec, Codec)
    audio_BT, num_samples_B = speechlike(16000, 9001, 330, 12000)
    codes_BS, num_codes_B = codec.encode(audio_BT, num_samples_B)
    decoded_BT = codec.decode(codes_BS, num_codes_B)
    assert num_codes_B.tolist() == {320: [50, 29, 2, 38], 640: [25, 15, 1, 19]}[hop_length]
    for item, (num_samples, num_codes) in enumerate(zip(num_samples_B.tolist(), num_codes_B.tolist(), strict=True)):
        alone, _ = codec.encode(audio_BT[item : item + 1, :num_samples], num_samples_B[item : item + 1])
        assert torch.equal(alone[0], codes_BS[item, :num_codes])
        heard = codec.decode(alone, torch.tensor([num_codes]))[0]
        torch.testing.assert_close(heard, decoded_BT[item, : num_codes * hop_length], atol=1e-5, rtol=1e-4)


def test_forward_is_encode_then_decode():
    codec = tiny_codec()
    audio_BT, num_samples_B = speechlike(8000, 6400)
    made = codec(audio_BT, num_samples_B)
    codes_BS, num_codes_B = codec.encode(audio_BT, num_samples_B)
    assert torch.equal(made.codes_BS, codes_BS)
    torch.testing.assert_close(made.audio_BT, codec.decode(codes_BS, num_codes_B)[:, :8000], atol=1e-5, rtol=1e-4)
    assert codes_BS.unique().numel() > 5, "a constant code would pass every comparison"


@pytest.mark.parametrize("start_frame", [0, 1, 17, 40])
def test_a_decoded_tail_is_the_end_of_the_whole(start_frame):
    codec = tiny_codec()
    codes_BS = torch.randint(0, 64, (2, 45))
    num_codes_B = torch.tensor([45, 45])
    whole = codec.decode(codes_BS, num_codes_B)
    tail = codec.decode(codes_BS, num_codes_B, start_frame)
    torch.testing.assert_close(tail, whole[:, start_frame * 320 :], atol=1e-5, rtol=1e-4)


def test_fingerprint_covers_the_encode_path_only():
    codec = tiny_codec()
    before = codec.fingerprint
    with torch.no_grad():
        codec.decoder.head.weight += 1
        codec.quantizer.project_out.weight += 1
        assert codec.fingerprint == before
        codec.encoder.trunk.embed.weight[0, 0, 0] += 1e-3
    assert codec.fingerprint != before


def test_quantizer_gradient_reaches_the_encoder():
    quantizer = FiniteScalarQuantizer(8, [8, 8, 8, 8])
    x = torch.randn(2, 5, 8, requires_grad=True)
    quantized = quantizer(x)
    quantized.latent_BSC.square().sum().backward()
    assert x.grad.abs().min() > 0
    torch.testing.assert_close(quantizer.lookup(quantized.codes_BS), quantized.latent_BSC)
    assert quantizer.codebook_size == 4096
    assert quantized.codes_BS.dtype == torch.int64


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_mel_loss_against_librosa(reduction):
    """Guards against the mean where X-codec2 and DAC take the sum (a seventh of it), and against shifted frames."""
    real_BT, made_BT = speechlike(4099, 4099)[0], speechlike(4099, 4099)[0].roll(100, 1)
    loss = MultiResolutionMelLoss(16000, reduction=reduction)
    distances = librosa_distances(made_BT, real_BT)
    expected = sum(distances) / (7 if reduction == "mean" else 1)
    assert float(loss(made_BT, real_BT)) == pytest.approx(expected, rel=1e-4)
    assert float(loss(real_BT, real_BT)) == 0


def test_gan_losses_by_hand():
    real, fake = [torch.tensor([1.0, 0.0])], [torch.tensor([0.5, 0.5])]
    assert float(discriminator_losses(real, fake).sum()) == pytest.approx(0.5 + 0.25)
    assert float(adversarial_losses(fake).sum()) == pytest.approx(0.25)
    sums = by_family("adversarial", torch.tensor([1.0, 2.0, 4.0]), ["period", "spectral", "period"])
    assert {name: float(value) for name, value in sums.items()} == {"adversarial_period": 5, "adversarial_spectral": 2}
    assert float(feature_matching_loss([real, real], [fake, fake])) == pytest.approx(1.0)


def test_families_are_weighed_apart():
    """Guards against a weight that reaches one of the two terms only, or the maps of another family."""
    generator = torch.Generator().manual_seed(0)
    real, fake = ([[torch.randn(3, 5, generator=generator) for _ in range(number)] for number in (2, 3, 1)]
                  for _ in range(2))  # fmt: skip
    families, by_name = ["period", "spectral", "period"], {"spectral": 0.25}
    weights_D = weights_of(families, by_name)
    expected, plain = 0.0, 0.0
    for family, real_maps, fake_maps in zip(families, real, fake, strict=True):
        for one, other in zip(real_maps, fake_maps, strict=True):
            plain += float((one - other).abs().mean())
            expected += by_name.get(family, 1.0) * float((one - other).abs().mean())
    assert float(feature_matching_loss(real, fake, weights_D)) == pytest.approx(expected)
    assert float(feature_matching_loss(real, fake, weights_of(families, None))) == pytest.approx(plain)
    assert float(weighted_sum(torch.tensor([1.0, 2.0, 4.0]), weights_D)) == 5.5
    assert float(weighted_sum(torch.tensor([1.0, 2.0, 4.0]), None)) == 7.0


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="reduction"):
        MultiResolutionMelLoss(16000, reduction="max")
    with pytest.raises(ValueError, match="mels_per_code"):
        SpectralEncoder(16000, 320, mels_per_code=3)
    with pytest.raises(ValueError, match="hop_length"):
        InverseSTFT(1000, 320)
    with pytest.raises(ValueError, match="num_samples_B"):
        tiny_codec().encode(torch.zeros(16000), torch.tensor([16000]))
