"""Verifiers on transformers' audio models: loaded by folder, batched, hashed, FLOPs; against the models themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioXVector,
    AutoModelForCTC,
    AutoTokenizer,
)

from modules.api import Audio, Candidate, Prompt, Verifier
from modules.verifiers.embeddings.audio_models import AudioModel
from modules.verifiers.emotion import EmotionLabel, EmotionSimilarity
from modules.verifiers.naturalness import AudioRegressor
from modules.verifiers.recognisers.ctc import CTC
from modules.verifiers.recognisers.normalise import BasicWords
from modules.verifiers.speaker import Speaker, XVector
from modules.verifiers.transcript import Transcript
from tests.toys.audio_model_toys import save_audio_model

RATE = 16_000
PROMPT = Prompt("k", "abc bad", reference=Audio(torch.sin(torch.arange(9000) * 0.11), RATE))


def clips() -> list[Audio]:
    """Clips of different lengths, two of them equal in length."""
    generator = torch.Generator().manual_seed(3)
    lengths = (6000, 9000, 7321, 6000)
    noises = [0.1 * torch.randn(length, generator=generator) for length in lengths]
    tones = [0.3 * torch.sin(torch.arange(length) * 0.05 * (1 + place)) for place, length in enumerate(lengths)]
    return [Audio(noise_T + tone_T, RATE) for noise_T, tone_T in zip(noises, tones, strict=True)]


def candidates(audios: list[Audio | None]) -> list[Candidate]:
    return [Candidate("k", i, 0, torch.zeros(4, dtype=torch.int64), -8.0, True, one) for i, one in enumerate(audios)]


@torch.no_grad()
def alone(folder: str, auto_class: type, audio: Audio, **options: bool):
    """transformers' own path, one clip, without padding."""
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(audio.samples_T.numpy(), sampling_rate=RATE, return_tensors="pt")
    return auto_class.from_pretrained(folder).eval()(**inputs, **options)


@pytest.mark.parametrize("masked", [True, False])
def test_ctc_transcribes_a_batch_like_single_clips(tmp_path: Path, masked: bool) -> None:
    """Guards against padding that affects a model without a mask, frames after a clip's end, and swapped clips."""
    folder = save_audio_model(tmp_path / "ctc", "ctc", masked)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = [tokenizer.decode(alone(folder, AutoModelForCTC, one).logits[0].argmax(-1)) for one in clips()]
    recogniser = CTC(folder, languages=["en"], batch_size=3)
    assert recogniser.transcribe(clips(), "en") == expected
    assert len(set(expected)) > 1
    with pytest.raises(ValueError, match="Expected `language` to be one of"):
        recogniser.transcribe(clips(), "fr")
    verifier = Transcript(recogniser, BasicWords(), "character")
    assert verifier.hypotheses(PROMPT, candidates(clips())) == expected
    assert verifier.facts.model_hash == CTC(folder, batch_size=1).model_hash


@pytest.mark.parametrize("masked", [True, False])
def test_speaker_similarity_is_the_cosine_of_the_models_embeddings(tmp_path: Path, masked: bool) -> None:
    """Guards against embeddings that depend on the batch, and against confusing logits with embeddings."""
    folder = save_audio_model(tmp_path / "xvector", "xvector", masked)
    reference = alone(folder, AutoModelForAudioXVector, PROMPT.reference).embeddings[0]
    expected = [
        float(torch.cosine_similarity(alone(folder, AutoModelForAudioXVector, one).embeddings[0], reference, dim=0))
        for one in clips()
    ]
    scores = Speaker(XVector(folder)).score(PROMPT, candidates(clips()))
    assert scores.tolist() == pytest.approx(expected, abs=1e-4)
    assert np.ptp(expected) > 1e-3


def test_clips_too_short_for_an_x_vector_are_no_fault_of_the_model(tmp_path: Path) -> None:
    """Guards against retrying in every run a clip too short for the network; against a limit that rejects valid clips;
    and against a deviation over one frame, which is NaN."""
    folder = save_audio_model(tmp_path, "xvector")
    network = AutoModelForAudioXVector.from_pretrained(folder).eval()
    noise_T = torch.randn(9000, generator=torch.Generator().manual_seed(5)) / 9
    with pytest.raises(RuntimeError, match="Kernel size"):
        network(noise_T[None, :2000])
    with torch.no_grad():  # one frame more is 320 samples more
        finite = (number for number in range(2800, 9000) if network(noise_T[None, :number]).embeddings.isfinite().all())
        shortest = next(finite)
    assert shortest > 2800
    lengths = (2000, shortest - 1, shortest, 9000)
    *short, enough, long = XVector(folder).embed([Audio(noise_T[:number], RATE) for number in lengths])
    assert all(isinstance(one, ValueError) and f"at least {shortest} samples" in str(one) for one in short)
    assert np.isfinite(enough).all() and np.isfinite(long).all()


def test_regressor_and_label_are_the_models(tmp_path: Path) -> None:
    """Guards against the wrong output, logits instead of probabilities, and a classifier used as a regressor."""
    regressor = save_audio_model(tmp_path / "regressor", "classifier", num_labels=1)
    moods = save_audio_model(tmp_path / "moods", "classifier", num_labels=3, seed=1)
    expected = [float(alone(regressor, AutoModelForAudioClassification, one).logits) for one in clips()]
    scores = AudioRegressor(regressor).score(PROMPT, candidates(clips()))
    assert scores.tolist() == pytest.approx(expected, abs=1e-4)
    expected = [alone(moods, AutoModelForAudioClassification, one).logits.softmax(-1)[0, 2].item() for one in clips()]
    assert EmotionLabel(moods, "mood 2").score(PROMPT, candidates(clips())).tolist() == pytest.approx(
        expected, abs=1e-4
    )
    with pytest.raises(ValueError, match="to have 1 output, but got 3"):
        AudioRegressor(moods).score(PROMPT, candidates(clips()))
    with pytest.raises(ValueError, match="Expected `label` to be one of"):
        EmotionLabel(moods, "joy").score(PROMPT, candidates(clips()))
    assert AudioRegressor(regressor).facts.model_hash != EmotionLabel(moods, "mood 1").facts.model_hash
    assert EmotionLabel(moods, "mood 0").facts.model_hash == EmotionLabel(moods, "mood 1").facts.model_hash


def test_emotion_similarity_is_that_of_mean_states(tmp_path: Path) -> None:
    """Guards against means over padding, and a similarity without a reference."""
    folder = save_audio_model(tmp_path / "moods", "classifier", num_labels=3)
    reference = alone(folder, AutoModel, PROMPT.reference).last_hidden_state[0].mean(0)
    expected = [
        float(torch.cosine_similarity(alone(folder, AutoModel, one).last_hidden_state[0].mean(0), reference, dim=0))
        for one in clips()
    ]
    verifier = EmotionSimilarity(folder)
    assert verifier.score(PROMPT, candidates(clips())).tolist() == pytest.approx(expected, abs=1e-4)
    assert verifier.score(Prompt("k", "text"), candidates(clips())).isnan().all()


def test_bad_clips_are_nan_and_equal_ones_are_scored_once(tmp_path: Path) -> None:
    """Guards against a clip that spoils its batch, and against scoring the same audio twice."""
    verifier = AudioRegressor(save_audio_model(tmp_path / "regressor", "classifier"))
    good = clips()
    bad = [None, Audio(torch.zeros(10), RATE), Audio(torch.full((6000,), float("nan")), RATE)]
    passes = []
    network = verifier._audio_model.network
    hook = network.register_forward_pre_hook(
        lambda module, arguments, keywords: passes.append(len(keywords["input_values"])), with_kwargs=True
    )
    scores = verifier.score(PROMPT, candidates([*good, *bad, good[0]]))
    assert scores.isnan().tolist() == [False] * 4 + [True] * 3 + [False]
    assert scores[0] == scores[-1]
    assert verifier.num_failures == 3
    assert sum(passes) == 4
    verifier.score(PROMPT, candidates(good))
    assert sum(passes) == 4
    hook.remove()


def test_flops_are_those_that_torch_counts(tmp_path: Path) -> None:
    """Guards against wrong FLOPs: counted on real tensors at a length that was not used in the formula."""
    for kind, auto_class in (("ctc", AutoModelForCTC), ("xvector", AutoModelForAudioXVector)):
        folder = save_audio_model(tmp_path / kind, kind)
        network = auto_class.from_pretrained(folder, attn_implementation="eager").eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.randn(1, 4 * RATE))
        assert AudioModel(folder, auto_class.__name__).flops(4.0) == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert AudioModel(folder, auto_class.__name__).flops(0.0) == 0.0


def test_folders_without_weights_are_refused(tmp_path: Path) -> None:
    """Guards against a hash of nothing, which would make all such models one verifier."""
    with pytest.raises(FileNotFoundError, match="Expected weights"):
        _ = XVector(str(tmp_path)).model_hash
    with pytest.raises(FileNotFoundError, match="Expected `model` to be a folder or a hub name"):
        _ = XVector(str(tmp_path / "missing")).model_hash
    folder = save_audio_model(tmp_path / "regressor", "classifier")
    for verifier in (Speaker(XVector(folder)), EmotionLabel(folder, "joy"), EmotionSimilarity(folder)):
        assert isinstance(verifier, Verifier)
    assert isinstance(AudioRegressor(folder), Verifier)
