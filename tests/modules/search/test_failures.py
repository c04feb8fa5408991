"""Verifiers that fail, that give relative scores, and that need memory, under every search."""

import math

import pytest
import torch

from modules.api import Audio, Candidate, Prompt, SamplingSettings
from modules.search.algorithms.adaptive import Adaptive
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.algorithms.diverse_beam import DiverseBeam
from modules.search.algorithms.partial_beam import PartialBeam
from modules.search.algorithms.process_beam import ProcessBeam
from modules.search.candidate_store import CandidateStore
from modules.search.driver import run_searches
from modules.search.panel import Panel
from modules.search.scorer import Scorer, decode_candidates, score_tasks
from modules.search.sweep import Sweep
from modules.verifiers.ensemble import Ensemble
from modules.verifiers.recognisers.normalise import BasicWords
from modules.verifiers.transcript import Transcript
from tests.modules.search.algorithms.test_algorithms import PartialVerifier
from tests.toys.search_toys import (
    HOP_LENGTH,
    ToyCodec,
    ToyFormat,
    ToyVerifier,
    TreeSampler,
    first_level,
    mean_level,
    toy_prompts,
)

ADAPTIVE = Adaptive("reward", max_candidates=6, max_new_tokens=30, price=0.0, round_size=2)
SEARCHES = [BestOfN(4, 30), ADAPTIVE, ProcessBeam("reward", 2, 2, 30, 10), PartialBeam("reward", 2, 2, 2, 30, 10, 5)]


def ensemble(*functions) -> Ensemble:
    return Ensemble([ToyVerifier(f"member {place}", function) for place, function in enumerate(functions)])


def run(algorithm, selectors, sampler=None, num_prompts=4):
    prompts = toy_prompts(num_prompts)
    return run_searches(prompts, algorithm, sampler or TreeSampler(), Scorer(ToyCodec()), selectors, 7)


class FailsOnBatches(ToyVerifier):
    """Fails for more than one candidate, like a device with too little memory."""

    def score(self, prompt, candidates):
        if len(candidates) > 1:
            raise RuntimeError("out of memory")
        return super().score(prompt, candidates)


def test_clips_that_a_recogniser_rejects_leave_an_ensemble_of_the_others():
    """Guards against a prompt that loses all scores, in every run, because two of its clips cannot be transcribed."""

    class Rejecting:
        model_hash, families = "rejecting", frozenset({"toy"})

        def transcribe(self, audios, language):
            if any(audio.samples_T[0] < 0 for audio in audios):
                raise ValueError("not this clip")
            return ["words"] * len(audios)

        def flops(self, seconds):
            return 0.0

    both = Ensemble([Transcript(Rejecting(), BasicWords()), ToyVerifier("mean", mean_level)])
    levels = [0.1, -0.1, -0.2, 0.4]
    candidates = [
        Candidate("p", index, 0, torch.zeros(4), 0.0, True, Audio(torch.full((2000,), level), 8000))
        for index, level in enumerate(levels)
    ]
    score_tasks([(Prompt("p", "words"), candidates)], both)
    scores = [one.scores["ensemble"] for one in candidates]
    assert [math.isnan(score) for score in scores] == [False, True, True, False] and scores[0] < scores[3]
    assert not any(one.failed for one in candidates)


@pytest.mark.parametrize("algorithm", SEARCHES[1:], ids=lambda one: one.name)
def test_scores_that_compare_may_not_steer(algorithm):
    """Guards against comparing candidates of two rounds by z-scores within each round."""
    both = ensemble(mean_level, first_level)
    both.name = "reward"
    with pytest.raises(ValueError, match="use one of its members"):
        run(algorithm, [both])


@pytest.mark.parametrize("algorithm", SEARCHES, ids=lambda one: one.name)
def test_an_ensemble_compares_all_candidates_of_a_prompt(algorithm):
    """Guards against calling an ensemble round by round: its scores would not compare the final candidates."""
    both = ensemble(mean_level, first_level)
    traces = run(algorithm, [PartialVerifier("reward", mean_level), both])
    assert any(len(trace.candidates) > 2 for trace in traces) or algorithm.name == "process_beam"
    for trace in traces:
        heard = [one for one in trace.candidates if one.num_codes]
        again = ensemble(mean_level, first_level).score(trace.prompt, heard)
        assert [one.scores["ensemble"] for one in heard] == pytest.approx(again.tolist())


def test_an_ensemble_that_fails_gives_no_scores_that_do_not_compare(tmp_path):
    """Guards against z-scores of single candidates, all 0, that are stored as scores; a later run repairs them."""
    broken = Ensemble([FailsOnBatches("one", mean_level), ToyVerifier("two", first_level)])
    prompts = toy_prompts(3)

    def sweep(selector):
        panel = Panel([selector], [ToyVerifier("judge", mean_level)])
        return Sweep(
            ToyCodec(),
            BestOfN(4, 12),
            SamplingSettings(),
            panel,
            CandidateStore(tmp_path),
            "model",
            7,
            prompt_format=ToyFormat(),
        )

    first = sweep(broken)
    num_failures = first.run(prompts, TreeSampler())
    shown = [one for prompt in prompts for one in first.record(prompt).trace.candidates if one.num_codes]
    assert all(math.isnan(one.scores["ensemble"]) for one in shown)
    assert num_failures == len(shown)
    sound = Ensemble([ToyVerifier("one", mean_level), ToyVerifier("two", first_level)])
    second = sweep(sound)
    second.run(prompts, TreeSampler())
    for prompt in prompts:
        heard = [one for one in second.record(prompt).trace.candidates if one.num_codes]
        decode_candidates(heard, ToyCodec())
        assert [one.scores["ensemble"] for one in heard] == pytest.approx(sound.score(prompt, heard).tolist())


def test_one_bad_candidate_leaves_an_ensemble_of_the_others():
    """Guards against a whole prompt without scores because of one clip."""

    def fragile(samples_T: torch.Tensor) -> float:
        if samples_T.numel() == longest:
            raise RuntimeError("too long for me")
        return mean_level(samples_T)

    longest = 0
    (trace,) = run(BestOfN(6, 30), [ensemble(mean_level, first_level)], num_prompts=1)
    longest = max(one.num_codes for one in trace.candidates) * HOP_LENGTH
    bad = [one.index for one in trace.candidates if one.num_codes * HOP_LENGTH == longest]
    (trace,) = run(BestOfN(6, 30), [ensemble(fragile, first_level)], num_prompts=1)
    assert [one.index for one in trace.candidates if one.failed == {"ensemble"}] == bad
    others = [one for one in trace.candidates if one.index not in bad and one.num_codes]
    expected = ensemble(mean_level, first_level).score(trace.prompt, others)
    assert len(others) > 2 and [one.scores["ensemble"] for one in others] == pytest.approx(expected.tolist())


@pytest.mark.parametrize("algorithm", SEARCHES[1:], ids=lambda one: one.name)
def test_failures_of_a_reward_are_counted(algorithm, caplog):
    """Guards against a search that is silently random because its verifier is broken; and against NaN that is stored as
    "cannot be scored"."""

    def broken(samples_T: torch.Tensor) -> float:
        raise RuntimeError("no server")

    traces = run(algorithm, [PartialVerifier("reward", broken)])
    shown = [one for trace in traces for one in trace.candidates if one.num_codes]
    assert shown and all(one.failed == {"reward"} for one in shown)
    assert f"scores of the reward of {algorithm.name} failed with an exception" in caplog.text


@pytest.mark.parametrize("algorithm", SEARCHES, ids=lambda one: one.name)
def test_finished_branches_free_their_memory_before_verifiers_run(algorithm):
    """Guards against caches of runaways that stay on the device while Whisper runs."""
    sampler, alive = TreeSampler(num_codes=30), []
    reward = PartialVerifier("reward", lambda samples_T: alive.append(len(sampler.alive)) or 0.5)
    run(algorithm, [reward], sampler=sampler, num_prompts=1)
    roots = 1 if algorithm.name in ("best_of_n", "adaptive") else 0  # beams free theirs, others may be continued
    growing = 2 if algorithm.name == "process_beam" else 0
    assert alive[-1] == roots + growing


class FailsOnOneClip(PartialVerifier):
    """Fails for the first clip that it receives, every time; scores the others."""

    def __init__(self) -> None:
        super().__init__("reward", mean_level)
        self.broken: torch.Tensor | None = None
        self.num_heard: dict[str, int] = {}

    def score(self, prompt, candidates):
        if self.broken is None:
            self.broken = candidates[0].audio.samples_T.clone()
        if any(torch.equal(one.audio.samples_T, self.broken) for one in candidates):
            raise RuntimeError("cannot read this clip")
        return super().score(prompt, candidates)


def test_a_clip_that_fails_in_one_subtree_is_one_failure(caplog):
    """Guards against candidates of parallel subtrees that share an index: one failing clip was counted once for each
    subtree, and finished candidates with the same index lost their scores and were scored again."""
    reward, sampler = FailsOnOneClip(), TreeSampler()
    with caplog.at_level("WARNING", "modules.search.driver"):
        (trace,) = run(DiverseBeam("reward", 4, 2, 30, 1, 10), [reward], sampler=sampler, num_prompts=1)
    (message,) = [one.message for one in caplog.records if "of the reward of" in one.message]
    assert message.startswith("1 scores of the reward of diverse_beam failed")
    assert [one.index for one in trace.candidates] == [0, 1, 2, 3]
