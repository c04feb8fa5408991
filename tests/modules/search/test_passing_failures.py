"""Transient failures, such as memory used by others, are not scores: every verifier raises them, for a later retry."""

import math
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from modules.api import Audio, Candidate, Prompt, Verifier
from modules.search.scorer import score_tasks
from modules.verifiers import naturalness
from modules.verifiers.audio import resampled
from modules.verifiers.embeddings import funasr_models, resemblyzer, wavlm_speaker
from modules.verifiers.embeddings.audio_models import AudioModel
from modules.verifiers.embeddings.funasr_models import Emotion2Vec
from modules.verifiers.embeddings.resemblyzer import Resemblyzer
from modules.verifiers.embeddings.wavlm_speaker import FineTunedWavLM
from modules.verifiers.emotion import EmotionLabel, EmotionSimilarity
from modules.verifiers.naturalness import AudioRegressor, Dnsmos
from modules.verifiers.recognisers.ctc import CTC
from modules.verifiers.recognisers.normalise import BasicWords
from modules.verifiers.speaker import Speaker, XVector
from modules.verifiers.transcript import Transcript
from tests.callbacks.test_synthesis import writer
from tests.conftest import speech_like
from tests.modules.verifiers.embeddings.test_wavlm_speaker import head_tensors, published_names, wavlm
from tests.toys.audio_model_toys import save_audio_model

RATE = 16_000
BAD = 20_000  # samples of the clip that runs out of memory


def fine_tuned(folder: Path) -> FineTunedWavLM:
    folder.mkdir()
    torch.save({"model": published_names(wavlm()) | head_tensors()}, folder / "wavlm_large_finetune.pth")
    return FineTunedWavLM(folder / "wavlm_large_finetune.pth")


class Emotions:
    """Replaces funasr's network."""

    def generate(self, input: Sequence[float], **options: object) -> list[dict[str, torch.Tensor]]:
        return [{"feats": torch.tensor([1.0, float(abs(input[:4000]).sum())])}]


def emotion2vec(folder: Path) -> Emotion2Vec:
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"weights")
    encoder = Emotion2Vec(str(folder))
    encoder._funasr._network = Emotions()
    return encoder


KINDS: dict[str, Callable[[Path], Verifier]] = {
    "transcript": lambda folder: Transcript(CTC(save_audio_model(folder, "ctc"), batch_size=3), BasicWords()),
    "x-vector": lambda folder: Speaker(XVector(save_audio_model(folder, "xvector"))),
    "fine-tuned": lambda folder: Speaker(fine_tuned(folder)),
    "resemblyzer": lambda folder: Speaker(Resemblyzer()),
    "dnsmos": lambda folder: Dnsmos("p808_mos", num_workers=2),
    "regressor": lambda folder: AudioRegressor(save_audio_model(folder, "classifier")),
    "label": lambda folder: EmotionLabel(save_audio_model(folder, "classifier", num_labels=3), "mood 1"),
    "emotion": lambda folder: EmotionSimilarity(save_audio_model(folder, "classifier")),
    "emotion2vec": lambda folder: Speaker(emotion2vec(folder)),
}


def prompts_and_groups() -> tuple[list[Prompt], list[list[Candidate]]]:
    """Two prompts of three clips; the first has one of `BAD` samples at 1 and one that is too short at 2."""
    prompts, groups = [], []
    for place, text in enumerate(("abc bad cab", "dad fed")):
        audio_T = speech_like(text.split(), 100 + 60 * place, torch.Generator().manual_seed(place)).float().repeat(3)
        prompts.append(Prompt(f"p{place}", text, reference=Audio(audio_T[-18_000:], RATE)))
        lengths = [16_000, BAD, 100] if place == 0 else [16_000, 17_000, 18_000]
        clips = [Audio(audio_T[:length] * (1 - 0.1 * i), RATE) for i, length in enumerate(lengths)]
        groups.append([Candidate(f"p{place}", i, i, torch.arange(9), -1.0, True, clip) for i, clip in enumerate(clips)])
    return prompts, groups


def scores_of(groups: list[list[Candidate]], name: str) -> list[float]:
    return [one.scores[name] for group in groups for one in group]


def failures_of(prompts: list[Prompt], groups: list[list[Candidate]], verifier: Verifier) -> list[tuple[str, int]]:
    """Score; returns prompt key and index of the candidates that failed."""
    score_tasks(list(zip(prompts, groups, strict=True)), verifier)
    return [(one.prompt_key, one.index) for group in groups for one in group if verifier.name in one.failed]


def let_memory_run_out(patch: pytest.MonkeyPatch) -> None:
    """Every verifier's model raises for a batch with a clip of `BAD` samples."""
    whole = AudioModel._inputs

    def inputs(model: AudioModel, clips: list) -> dict[str, torch.Tensor]:
        refuse([len(clip) for clip in clips])
        return whole(model, clips)

    def refusing(audio: Audio, sample_rate: int) -> object:
        refuse([audio.samples_T.numel()])
        return resampled(audio, sample_rate)

    def refuse(lengths: list[int]) -> None:
        if BAD in lengths:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    patch.setattr(AudioModel, "_inputs", inputs)
    for module in (resemblyzer, naturalness, wavlm_speaker, funasr_models):
        patch.setattr(module, "resampled", refusing)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_without_memory_is_a_failure_of_its_own(tmp_path, monkeypatch, kind):
    """Guards against out-of-memory that counts as the worst score permanently, against other clips without a score, and
    against retrying a clip that cannot be scored in every run."""
    prompts, groups = prompts_and_groups()
    expected_from = KINDS[kind](tmp_path / "whole")
    assert failures_of(prompts, groups, expected_from) == []
    expected = scores_of(groups, expected_from.name)
    assert [place for place, score in enumerate(expected) if math.isnan(score)] == [2]
    verifier = KINDS[kind](tmp_path / "short of memory")
    with monkeypatch.context() as patch:
        let_memory_run_out(patch)
        assert failures_of(prompts, groups, verifier) == [("p0", 1)]
    scores = scores_of(groups, verifier.name)
    assert math.isnan(scores[1])
    assert scores[:1] + scores[2:] == pytest.approx(expected[:1] + expected[2:], abs=2e-5, nan_ok=True)
    assert failures_of(prompts[:1], [groups[0][1:2]], verifier) == []
    assert groups[0][1].scores[verifier.name] == pytest.approx(expected[1], abs=2e-5)


def test_a_failure_keeps_nothing_that_its_neighbours_need(tmp_path, monkeypatch):
    """Guards against exceptions that keep all objects of their frames alive: on a GPU, the next clip fails too."""
    held: list[weakref.ref] = []

    def inputs(model: AudioModel, clips: list) -> dict[str, torch.Tensor]:
        assert all(one() is None for one in held)
        activations = torch.zeros(8)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(AudioModel, "_inputs", inputs)
    prompts, groups = prompts_and_groups()
    verifier = KINDS["regressor"](tmp_path)
    assert failures_of(prompts[1:], groups[1:], verifier) == [("p1", 0), ("p1", 1), ("p1", 2)]
    assert len(held) == 5  # all three, the first, the other two, and each of these
    assert all(one() is None for one in held)


def test_speech_is_written_if_its_transcription_fails(tmp_path, monkeypatch):
    """Guards against a recogniser without memory that loses the selected candidate."""
    prompts, groups = prompts_and_groups()
    callback = writer(tmp_path, KINDS["transcript"](tmp_path / "ctc"))
    assert callback._transcript(prompts[0], groups[0][0])
    let_memory_run_out(monkeypatch)
    assert callback._transcript(prompts[0], groups[0][1]) is None


def test_transcripts_of_a_clip_without_memory_are_retried(tmp_path, monkeypatch):
    """Guards against an empty text that is stored as transcript."""
    prompts, groups = prompts_and_groups()
    verifier = KINDS["transcript"](tmp_path)
    with monkeypatch.context() as patch:
        let_memory_run_out(patch)
        with pytest.raises(torch.OutOfMemoryError):
            verifier.hypotheses(prompts[0], groups[0])
    assert [bool(text) for text in verifier.hypotheses(prompts[0], groups[0])] == [True, True, False]
