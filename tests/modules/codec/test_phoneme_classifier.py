"""The loss of the phoneme classifier against a loop over single frames, and what it trains."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from modules.batches import UNKNOWN
from modules.codec.training.phoneme_classifier import PhonemeClassifier, phoneme_loss
from tests.modules.test_codec_parallel import Crops, build, trainer_of
from tests.toys.codec_batches import batch_of, recordings, validated


def test_the_loss_is_that_of_single_frames():
    """Guards against labels of other codes, frames without a label that count, and a mean over padding."""
    torch.manual_seed(0)
    classifier = PhonemeClassifier(5, labels_per_code=2, num_labels=7, hidden_channels=6)
    latent_BSC, phonemes_BF = torch.randn(2, 4, 5), torch.randint(7, (2, 8))
    phonemes_BF[0, 3], phonemes_BF[1, 5:] = UNKNOWN, UNKNOWN
    losses = []
    for latent_SC, phonemes_F in zip(latent_BSC, phonemes_BF, strict=True):
        for frame, label in enumerate(phonemes_F.tolist()):
            if label != UNKNOWN:
                logits = classifier.layers(latent_SC[frame // 2])[7 * (frame % 2) :][:7]
                losses.append(-logits.log_softmax(-1)[label])
    got = phoneme_loss(classifier(latent_BSC), phonemes_BF)
    torch.testing.assert_close(got, torch.stack(losses).mean())
    assert phoneme_loss(classifier(latent_BSC), torch.full((2, 8), UNKNOWN)) == 0
    short = phoneme_loss(classifier(latent_BSC), phonemes_BF[:, :7])  # the last code is not full
    torch.testing.assert_close(short, torch.stack(losses[:6] + losses[7:]).mean())


def test_labels_that_do_not_fit_are_refused():
    """Guards against a classifier without labels, which would train nothing, and labels at another rate."""
    logits_BFK = PhonemeClassifier(5)(torch.zeros(1, 4, 5))
    with pytest.raises(ValueError, match="set the data's `phonemes`"):
        phoneme_loss(logits_BFK, None)
    with pytest.raises(ValueError, match="`hop_length` of the data's `phonemes`"):
        phoneme_loss(logits_BFK, torch.zeros(1, 16, dtype=torch.int64))


def test_its_loss_trains_encoder_and_classifier():
    """Guards against a term that does not reach the encoder, and a classifier that is not trained or not stored."""
    probe, batch = build(), batch_of(recordings()[6:8], length=1600)
    num_codes, channels = probe.generator(batch.audio_BT, batch.num_samples_B).latent_BSC.shape[1:]
    classifier = PhonemeClassifier(channels, labels_per_code=1, num_labels=4, hidden_channels=8)
    module = build(phoneme_classifier=classifier, perceptual_loss=None)
    module._trainer = SimpleNamespace(global_step=0)
    made = module.generator(batch.audio_BT, batch.num_samples_B)
    with pytest.raises(ValueError, match="set the data's `phonemes`"):
        module._reconstruction_terms(made, batch)
    batch.phonemes_BF = torch.randint(4, (2, num_codes))
    terms = module._reconstruction_terms(made, batch)
    assert terms.keys() == {"mel", "semantic", "phonemes"}
    trained = module._generator_weights()
    gradients = torch.autograd.grad(terms["phonemes"], trained, allow_unused=True)
    reached = {id(weight) for weight, gradient in zip(trained, gradients, strict=True) if gradient is not None}
    assert {id(weight) for weight in classifier.parameters()} <= reached
    assert {id(weight) for weight in module.generator.encoder.fusion.parameters()} <= reached
    assert not reached & {id(weight) for weight in module.generator.decoder.parameters()}
    stored = [name for name in module.state_dict() if name.startswith("phoneme_classifier.")]
    assert len(stored) == len(list(classifier.parameters()))


def test_it_teaches_nothing_where_the_codes_are_kept():
    """Guards against a classifier that seems to train a codec whose encoder is frozen."""
    with pytest.raises(ValueError, match="no `phoneme_classifier` with `decoder_only`"):
        build(phoneme_classifier=PhonemeClassifier(48), semantic_decoder=None, decoder_only=True)


@pytest.mark.parametrize("was_trained_with", [True, False])
def test_codecs_of_trainings_with_and_without_it_are_evaluated_alike(was_trained_with, tmp_path):
    """Guards against a config with the classifier that refuses codecs of earlier versions, and one without it that
    refuses later ones. A training goes on with the same networks alone."""
    batches = [batch_of(recordings()[4:6])]
    modules = {has_it: build(phoneme_classifier=PhonemeClassifier(48) if has_it else None) for has_it in (True, False)}
    trainer, path = trainer_of("auto", 1), tmp_path / "codec.ckpt"
    expected = validated(trainer, modules[was_trained_with], batches)
    trainer.save_checkpoint(path)
    other = modules[not was_trained_with]
    with torch.no_grad():
        other.generator.bridge.weight.zero_()
    (result,) = trainer_of("auto", 1).validate(other, DataLoader(batches, batch_size=None), path, verbose=False)
    assert result["val/mel"] == expected
    other = build(phoneme_classifier=None if was_trained_with else PhonemeClassifier(48))
    with pytest.raises(RuntimeError, match="phoneme_classifier"):
        trainer_of("auto", 1).fit(other, DataLoader(Crops(0, 1), batch_size=None), ckpt_path=path)
