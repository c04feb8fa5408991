"""Losses, `val/mel` and discriminators are independent of padding.

Shapes: B batch, T samples.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from modules.batches import pad_rows
from modules.codec.parts.semantic_encoder import NormalisedWaveform
from modules.codec.parts.spectral import LogMel
from modules.codec.training.discriminators import discriminator_windows
from modules.codec.training.losses import MultiResolutionMelLoss
from modules.codec.training.perceptual_loss import PerceptualLoss
from modules.codec_module import CodecModule
from tests.modules.test_codec_parallel import SPEECH_ENCODER, build, trainer_of
from tests.toys.codec_batches import batch_of, recordings, validated

WINDOWS, NUMS_OF_MELS = [32, 256], [5, 20]
# Like XLSR-53: the first convolution normalises each frame, not over time.
FRAMEWISE = SPEECH_ENCODER | {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


def naive_mel(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean over resolutions of the mean over all valid frames of the recordings, one recording at a time."""
    means = []
    for window, num_mels in zip(WINDOWS, NUMS_OF_MELS, strict=True):
        mel = LogMel(16000, window, window // 4, num_mels)
        distances = [(mel(made_T[None]) - mel(real_T[None]))[0].abs() / 2.302585093 for made_T, real_T in pairs]
        means.append(torch.cat(distances, dim=-1).mean())
    return torch.stack(means).mean()


def codec() -> CodecModule:
    """Its decoder returns non-zero values beyond an item's end, so that a missing mask shows."""
    return build(
        reconstruction_loss=MultiResolutionMelLoss(16000, WINDOWS, NUMS_OF_MELS),
        perceptual_loss=PerceptualLoss(NormalisedWaveform(), [1, 2], config=FRAMEWISE),
        perceptual_start_step=0,
    ).eval()


def alone(module: CodecModule) -> Tensor:
    """`val/mel` of the recordings, each resynthesised and compared separately."""
    with torch.no_grad():
        made = [module.generator(row_T[None], torch.tensor([len(row_T)])).audio_BT[0] for row_T in recordings()]
    return naive_mel(list(zip(made, recordings(), strict=True)))


def test_what_lies_beyond_a_crop_does_not_count() -> None:
    """Guards against counting padding as frames without error, and against including what was generated there."""
    real = recordings()
    made = [0.5 * row_T.roll(7) + 0.01 for row_T in real]
    (real_BT, num_samples_B), (made_BT, _) = pad_rows(real), pad_rows(made, value=0.7)
    loss = MultiResolutionMelLoss(16000, WINDOWS, NUMS_OF_MELS)
    pairs = list(zip(made, real, strict=True))
    torch.testing.assert_close(loss(made_BT, real_BT, num_samples_B), naive_mel(pairs), rtol=1e-5, atol=0)
    for place, pair in enumerate(pairs):
        row = slice(place, place + 1)
        got = loss(made_BT[row], real_BT[row], num_samples_B[row])
        torch.testing.assert_close(got, naive_mel([pair]), rtol=1e-5, atol=0)


def test_val_mel_does_not_depend_on_how_recordings_are_batched() -> None:
    """Guards against padding that reduces it, and weighting items instead of frames."""
    module, rows = codec(), recordings()
    expected = alone(module)
    for batch_size in (1, 2, 3, 5, 16):
        batches = [batch_of(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]
        assert validated(trainer_of("auto", 1), module, batches) == pytest.approx(float(expected), rel=1e-5), batch_size


def test_a_broken_batch_shows_in_val_mel() -> None:
    """Guards against a metric that ignores NaN, so that a broken run looks fine: one of three batches is NaN."""
    batches = [batch_of(recordings()[start : start + 2]) for start in (0, 2, 4)]
    batches[1].audio_BT[0, 50] = float("nan")
    assert validated(trainer_of("auto", 1), codec(), batches[::2]) > 0
    assert math.isnan(validated(trainer_of("auto", 1), codec(), batches))


def test_a_short_crop_in_a_batch_gives_the_losses_of_itself_alone() -> None:
    """Guards against a term that depends on padding: mel, semantic and perceptual, against the crop without any."""
    module, row_T = codec(), recordings()[10][:1999]
    found = []
    for batch in (batch_of([row_T]), batch_of([row_T], length=3200)):
        module._trainer = SimpleNamespace(global_step=0)
        made = module.generator(batch.audio_BT, batch.num_samples_B)
        found.append(module._reconstruction_terms(made, batch))
    assert found[0].keys() == {"mel", "semantic", "perceptual"}
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=0)


def test_the_perceptual_loss_weighs_by_frames() -> None:
    """Guards against giving a short item's frames more weight, or counting its padding; the reference runs one at a
    time."""
    loss = codec().perceptual_loss
    real = recordings()[4:8]
    made = [0.5 * row_T.roll(7) + 0.01 for row_T in real]
    (real_BT, num_samples_B), (made_BT, _) = pad_rows(real), pad_rows(made, value=0.7)
    each = torch.stack([loss(made_T[None], real_T[None]) for made_T, real_T in zip(made, real, strict=True)])
    num_frames_B = num_samples_B // 320
    expected = (each * num_frames_B).sum() / num_frames_B.sum()
    torch.testing.assert_close(loss(made_BT, real_BT, num_samples_B), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("discriminator_samples", [400, 0])
def test_discriminators_see_no_padding(discriminator_samples: int) -> None:
    """Guards against windows in the padding, or always at the same end of a short crop. Samples encode their
    position."""
    num_samples_B = torch.tensor([1000, 1000, 700, 400, 150])
    audio_BT = torch.arange(1000.0).expand(5, -1).masked_fill(torch.arange(1000) >= num_samples_B[:, None], -1)
    starts = []
    for step in range(200):
        real_BT, fake_BT = discriminator_windows(audio_BT, -audio_BT, num_samples_B, discriminator_samples, step)
        assert torch.equal(real_BT, -fake_BT) and real_BT.min() >= 0
        assert real_BT.shape == (5, discriminator_samples or 1000)
        for start, length, window_T in zip(real_BT[:, 0], num_samples_B, real_BT, strict=True):
            assert torch.equal(window_T, (start + torch.arange(len(window_T))) % length)  # contiguous, or repeated
        starts.append(real_BT[:, 0])
    starts_BN = torch.stack(starts, 1)
    assert torch.equal(starts_BN[0], starts_BN[1]) and not starts_BN[3:].any()
    if discriminator_samples:
        assert starts_BN[0].max() > 580 and starts_BN[2].max() > 290
        assert starts_BN[2].mean() == pytest.approx(150, abs=30)  # uniform in 0 to 300
