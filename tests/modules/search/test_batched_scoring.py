"""Verifiers that score many prompts in one batch: scores of single calls, one call per round, isolated failures."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from modules.api import Audio, Candidate, Prompt, SamplingSettings, ScoresMany, Verifier
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.algorithms.process_beam import ProcessBeam
from modules.search.candidate_store import CandidateStore
from modules.search.driver import run_searches
from modules.search.panel import Panel
from modules.search.scorer import Scorer, score_tasks
from modules.search.sweep import Sweep
from modules.verifiers.embeddings.resemblyzer import Resemblyzer
from modules.verifiers.emotion import EmotionLabel, EmotionSimilarity
from modules.verifiers.ensemble import Ensemble
from modules.verifiers.health import Health
from modules.verifiers.naturalness import AudioRegressor, Dnsmos
from modules.verifiers.recognisers.ctc import CTC
from modules.verifiers.recognisers.normalise import BasicWords
from modules.verifiers.speaker import Speaker, XVector
from modules.verifiers.transcript import Transcript
from tests.conftest import speech_like
from tests.toys.audio_model_toys import save_audio_model
from tests.toys.search_toys import (
    HOP_LENGTH,
    ToyCodec,
    ToyFormat,
    ToySampler,
    ToyVerifier,
    TreeSampler,
    mean_level,
    toy_prompts,
)

RATE = 16_000


def spoken(words: str, pitch: float, seed: int) -> Audio:
    return Audio(speech_like(words.split(), pitch, torch.Generator().manual_seed(seed)).float(), RATE)


def prompts_and_groups() -> tuple[list[Prompt], list[list[Candidate]]]:
    """Three prompts of two languages and voices; clips of many lengths, one too short and one without audio."""
    texts = ("abc bad cab", "dad fed", "egg add bee")
    prompts = [
        Prompt(f"p{place}", text, "en" if place < 2 else "fr", reference=spoken(text, 100 + 60 * place, place))
        for place, text in enumerate(texts)
    ]
    groups = []
    for place, text in enumerate(texts):
        audios = [spoken(text, 90 + 40 * i, 10 * place + i) for i in range(2 + place)]
        audios += [Audio(torch.zeros(10), RATE), None][: 1 + place % 2]
        groups.append([
            Candidate(f"p{place}", i, i, torch.arange(40 + i), -8.0 - i, True, audio) for i, audio in enumerate(audios)
        ])  # fmt: skip
    return prompts, groups


def both(folder: Path) -> list[Verifier]:
    return [Speaker(XVector(save_audio_model(folder / "voice", "xvector"))),
            AudioRegressor(save_audio_model(folder / "mos", "classifier"))]  # fmt: skip


KINDS: dict[str, Callable[[Path], Verifier]] = {
    "transcript": lambda folder: Transcript(CTC(save_audio_model(folder, "ctc"), batch_size=3), BasicWords()),
    "x-vector": lambda folder: Speaker(XVector(save_audio_model(folder, "xvector", masked=False))),
    "resemblyzer": lambda folder: Speaker(Resemblyzer()),
    "dnsmos": lambda folder: Dnsmos("p808_mos"),
    "regressor": lambda folder: AudioRegressor(save_audio_model(folder, "classifier")),
    "label": lambda folder: EmotionLabel(save_audio_model(folder, "classifier", num_labels=3), "mood 1"),
    "emotion": lambda folder: EmotionSimilarity(save_audio_model(folder, "classifier")),
    "ensemble": lambda folder: Ensemble([*both(folder), Health()], "rank"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_many_prompts_together_get_the_scores_of_one_by_one(tmp_path, kind):
    """Guards against scores that go to the wrong prompt or depend on the batch, and against a bad clip that spoils the
    others of its round."""
    prompts, groups = prompts_and_groups()
    alone = KINDS[kind](tmp_path / "alone")
    expected = [
        float(alone.score(prompt, [one])) for prompt, group in zip(prompts, groups, strict=True) for one in group
    ]
    if kind == "ensemble":  # relative to the candidates of a prompt
        expected = torch.cat([alone.score(prompt, group) for prompt, group in zip(prompts, groups, strict=True)])
    together = KINDS[kind](tmp_path / "together")
    assert isinstance(together, ScoresMany)
    scores = torch.cat(together.score_many(prompts, groups))
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, torch.as_tensor(expected).double(), rtol=0, atol=2e-5, equal_nan=True)
    counting = together.members[:2] if kind == "ensemble" else [together]
    assert int(scores.isnan().sum()) == 4 <= sum(one.num_failures for one in counting)
    assert kind == "transcript" or len(set(scores[~scores.isnan()].tolist())) > 3
    again = torch.cat(together.score_many(prompts[::-1], groups[::-1]))
    assert torch.equal(torch.cat(again.split([len(group) for group in groups[::-1]])[::-1]).isnan(), scores.isnan())


class Recogniser:
    """Transcribes only the length; fails for clips of 4,000 samples. `calls`: clips and language of each call."""

    model_hash, families = "lengths", frozenset({"lengths"})

    def __init__(self) -> None:
        self.calls: list[tuple[int, str]] = []

    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        self.calls.append((len(audios), language))
        if any(audio.samples_T.numel() == 4000 for audio in audios):
            raise RuntimeError("not this one")
        return ["word " * (audio.samples_T.numel() // 1000) for audio in audios]

    def flops(self, seconds: float) -> float:
        return 0.0


def clip_of(prompt: Prompt, index: int, num_samples: int) -> Candidate:
    audio = Audio(torch.full((num_samples,), 0.1 + 0.01 * index), RATE)
    return Candidate(prompt.key, index, index, torch.zeros(4, dtype=torch.int64), -1.0, True, audio)


def test_a_recogniser_transcribes_a_round_in_one_call_per_language():
    """Guards against a call for every prompt, and against transcribing audio whose text is already known."""
    prompts = [Prompt(f"p{i}", "word word word", "en" if i < 3 else "fr") for i in range(5)]
    groups = [[clip_of(prompt, i, 2000 + 1000 * i) for i in range(2)] for prompt in prompts]
    recogniser = Recogniser()
    verifier = Transcript(recogniser, BasicWords())
    tasks = list(zip(prompts, groups, strict=True))
    score_tasks(tasks, verifier)
    assert not any(one.failed for group in groups for one in group)
    assert recogniser.calls == [(2, "en"), (2, "fr")]  # equal audio is transcribed once
    assert [one.scores["transcript"] for group in groups for one in group] == pytest.approx([2 / 3, 1] * 5)
    score_tasks(tasks, verifier)
    assert len(recogniser.calls) == 2


def test_a_clip_that_fails_is_found_and_the_others_keep_their_scores(caplog):
    """Guards against a round that one clip turns into NaN, and against transcribing hundreds of clips one by one."""
    prompts = [Prompt(f"p{i}", "word word word") for i in range(8)]
    groups = [[clip_of(prompt, 8 * place + i, 3000) for i in range(8)] for place, prompt in enumerate(prompts)]
    groups[5][2] = clip_of(prompts[5], 42, 4000)
    recogniser = Recogniser()
    score_tasks(list(zip(prompts, groups, strict=True)), Transcript(recogniser, BasicWords()))
    failed = [(one.prompt_key, one.index, one.failed) for group in groups for one in group if one.failed]
    assert failed == [("p5", 42, {"transcript"})]
    scores = [one.scores["transcript"] for group in groups for one in group]
    assert [place for place, score in enumerate(scores) if math.isnan(score)] == [42]
    assert scores[:42] + scores[43:] == [1.0] * 63
    assert len(recogniser.calls) < 24  # two calls for each of 6 halvings, by the scorer and by the transcript


class ManyVerifier(ToyVerifier):
    """`rounds`: number of prompts of each call. Fails for audio of `bad_length` samples."""

    judges_partial = True

    def __init__(self, name: str, bad_length: int = -1) -> None:
        super().__init__(name, mean_level)
        self.bad_length = bad_length
        self.rounds: list[int] = []

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        if any(one.audio.samples_T.numel() == self.bad_length for one in candidates):
            raise RuntimeError("not this length")
        return super().score(prompt, candidates)

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[Tensor]:
        self.rounds.append(len(prompts))
        return [self.score(prompt, group) for prompt, group in zip(prompts, groups, strict=True)]


@pytest.mark.parametrize("algorithm", [BestOfN(4, 12), ProcessBeam("many", 2, 2, 12, 4)], ids=lambda one: one.name)
def test_the_driver_asks_once_a_round(algorithm):
    """Guards against verification that is not batched across prompts: partial audio of beams and finished samples."""
    many, single = ManyVerifier("many"), ToyVerifier("many", mean_level)
    single.judges_partial = True
    traces = run_searches(toy_prompts(5), algorithm, TreeSampler(), Scorer(ToyCodec()), [many], 7)
    expected = run_searches(toy_prompts(5), algorithm, TreeSampler(), Scorer(ToyCodec()), [single], 7)
    assert max(many.rounds) == 5 and len(many.rounds) <= 4
    for ours, theirs in zip(traces, expected, strict=True):
        assert [str(one.scores) for one in ours.candidates] == [str(one.scores) for one in theirs.candidates]
        assert ours.cost.verifier_flops == pytest.approx(theirs.cost.verifier_flops)


def test_a_sweep_asks_late_selectors_and_judges_once_a_group(tmp_path):
    """Guards against calling judges, and selectors added after sampling, prompt by prompt; and against a failure that
    is stored as a score."""

    def sweep(*panel: list[Verifier]) -> Sweep:
        return Sweep(
            ToyCodec(),
            BestOfN(4, 12),
            SamplingSettings(),
            Panel(*panel),
            CandidateStore(tmp_path),
            "m",
            0,
            prompt_format=ToyFormat(),
        )

    def candidates_of(sweep: Sweep) -> dict[tuple[str, int], Candidate]:
        return {(one.prompt_key, one.index): one for p in prompts for one in sweep.record(p).trace.candidates}

    prompts, judge = toy_prompts(5), ManyVerifier("judge", bad_length=5 * HOP_LENGTH)
    sampler = ToySampler()
    first = sweep([], [judge])
    num_failures = first.run(prompts, sampler)
    assert judge.rounds[0] == 5
    lengths = {place: one.num_codes for place, one in candidates_of(first).items()}
    bad = {(*place, "judge") for place, length in lengths.items() if length == 5}
    assert bad and num_failures == len(bad)
    assert bad == {(*place, "judge") for place, one in candidates_of(first).items() if one.failed == {"judge"}}
    late, judge.bad_length, num_rounds = ManyVerifier("late"), -1, len(judge.rounds)
    second = sweep([late], [judge])
    assert second.run(prompts, sampler) == 0
    assert late.rounds == [5] and len(sampler.extended) == 1
    assert judge.rounds[num_rounds:] in ([], [len({key for key, _, _ in bad})])
    scores = {place: one.scores["judge"] for place, one in candidates_of(second).items()}
    assert {place for place, score in scores.items() if math.isnan(score)} == {
        place for place, length in lengths.items() if length == 0
    }
