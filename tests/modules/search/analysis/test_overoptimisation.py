"""Corpus rates, runaways and over-optimisation: against brute force and jiwer."""

import itertools
import math

import jiwer
import numpy as np
import pytest
import torch

from modules.api import Candidate, Cost, Prompt, SamplingSettings
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.algorithms.process_beam import ProcessBeam
from modules.search.analysis.curves import CurveCalculator
from modules.search.analysis.expected_best_of_n import JudgedPrompt, corpus_score, expected_runaways, selection_weights
from modules.search.analysis.overoptimisation import NO_INDEPENDENT_JUDGE, over_optimisation
from modules.search.candidate_store import CandidateStore
from modules.search.panel import Panel
from modules.search.protocol import Trace
from modules.search.summary import summarise
from modules.search.sweep import Sweep
from tests.toys.search_toys import ToyCodec, ToyFormat, ToyVerifier, TreeSampler, first_level, mean_level, toy_prompts


class Ensemble(ToyVerifier):
    @property
    def members(self) -> list[ToyVerifier]:
        return [verifier("first"), verifier("second")]


class PartialVerifier(ToyVerifier):
    judges_partial = True


def verifier(name: str) -> ToyVerifier:
    return ToyVerifier(name, mean_level)


def traces_with(scores: dict[str, np.ndarray]) -> list[Trace]:
    """`scores`: verifier name -> (P, N). Candidates of 4 codes that all ended."""
    num_prompts, num_candidates = next(iter(scores.values())).shape
    return [
        Trace(
            Prompt(f"prompt{place}", "some words"),
            [
                Candidate(f"prompt{place}", index, index, torch.zeros(4, dtype=torch.int64), -1.0, True,
                          scores={name: float(values[place, index]) for name, values in scores.items()},
                          cost=Cost(10.0, 2.0, prompt_flops=4.0),
                          verifier_costs={name: Cost(verifier_flops=3.0) for name in scores})
                for index in range(num_candidates)
            ],
        )
        for place in range(num_prompts)
    ]  # fmt: skip


def calculated(traces: list[Trace], panel: Panel, algorithm=None):
    algorithm = algorithm or BestOfN(len(traces[0].candidates), 10)
    return CurveCalculator("set", algorithm, traces, panel, 0, 400, 0.7).points()


# ------------------------------------------------------------------------------------------------------ corpus rates


def test_corpus_score_is_jiwers_over_the_whole_corpus():
    """Guards against a mean of rates reported as the corpus rate: short texts would have too much weight."""
    references = ["one two three four five six", "seven", "eight nine"]
    heard = ["one two three four five nine", "eight", "eight nine"]
    scores_P = np.array([1 - jiwer.wer(one, other) for one, other in zip(references, heard, strict=True)])
    prompts = [JudgedPrompt(np.zeros(1), np.ones(1, bool), len(one.split())) for one in references]
    assert corpus_score(prompts, scores_P) == pytest.approx(1 - jiwer.wer(references, heard))
    assert corpus_score(prompts, scores_P) != pytest.approx(scores_P.mean())
    assert math.isnan(corpus_score([JudgedPrompt(np.zeros(1), np.ones(1, bool))], np.ones(1)))


def test_expected_runaways_is_the_mean_over_all_subsets():
    """Guards against counting candidates instead of selections, and against failures that are not counted."""
    generator = np.random.default_rng(0)
    scores, judged = generator.random((3, 6)), generator.random((3, 6)) > 0.2
    selector = generator.random((3, 6))
    prompts = [JudgedPrompt(np.where(ok, row, 0.9), ok, 5.0) for row, ok in zip(scores, judged, strict=True)]
    for n in (1, 2, 6):
        weights = [selection_weights(row, n) for row in selector]
        expected = 0.0
        for place in range(3):
            choices = [
                max(subset, key=lambda one: selector[place, one]) for subset in itertools.combinations(range(6), n)
            ]
            expected += np.mean([not judged[place, one] or scores[place, one] < 0.5 for one in choices])
        assert expected_runaways(prompts, weights) == pytest.approx(expected)


# ------------------------------------------------------------------------------------------------- over-optimisation


def sweep_of(slope: float, num_prompts: int = 60):
    """A sweep with a selector whose score depends on the judges' true score by `slope`; the judges have equal noise."""
    generator = np.random.default_rng(4)
    proxy = generator.normal(size=(num_prompts, 16))
    judges = {name: slope * proxy + generator.normal(size=proxy.shape) for name in ("one", "two")}
    return traces_with({"selector": proxy} | judges)


def test_a_weak_selector_is_detected_and_a_sound_one_is_not():
    """Guards against a report without a warning while the judges' scores fall, and one that always warns."""
    panel = Panel([verifier("selector")], [verifier("one"), verifier("two")])
    for slope, over_optimised in ((-0.8, True), (0.8, False)):
        traces = sweep_of(slope)
        rows = over_optimisation(calculated(traces, panel), [traces], panel, 0, 500)
        assert [(row.selector, row.judge, row.n) for row in rows] == [("selector", "one", 16), ("selector", "two", 16)]
        for row in rows:
            own = np.array([[one.scores["selector"] for one in trace.candidates] for trace in traces])
            judged = np.array([[one.scores[row.judge] for one in trace.candidates] for trace in traces])
            own_gain = (own.max(1) - own.mean(1)).mean() / own.std()
            chosen = judged[np.arange(60), own.argmax(1)]
            judge_gain = (chosen - judged.mean(1)).mean() / judged.std()
            assert (row.own_gain, row.judge_gain) == pytest.approx((own_gain, judge_gain))
            assert row.gap == pytest.approx(own_gain - judge_gain)
            assert row.gap_low < row.gap < row.gap_high
            assert row.own_low > 0 and (row.judge_high < 0) == over_optimised == (row.judge_low < 0)
            assert row.turning_n == (1 if over_optimised else 0)
            assert row.warning == (f"over-optimised: {row.judge} falls after n = 1" if over_optimised else "")


def test_the_turning_point_is_where_the_judge_is_highest():
    """Guards against a turning point at N or at 1: the judge agrees with the proxy except for its extremes."""
    generator = np.random.default_rng(5)
    proxy = generator.normal(size=(200, 64))
    judge = -((proxy - 0.9) ** 2) + 0.1 * generator.normal(size=proxy.shape)
    traces = traces_with({"selector": proxy, "one": judge})
    panel = Panel([verifier("selector")], [verifier("one")])
    (row,) = over_optimisation(calculated(traces, panel), [traces], panel, 0, 500)
    curve = [np.mean([selection_weights(p, n) @ j for p, j in zip(proxy, judge, strict=True)]) for n in (1, 2, 4, 8)]
    assert row.turning_n == (1, 2, 4, 8)[int(np.argmax(curve))] in (2, 4, 8)
    assert row.warning


def test_a_selector_without_an_independent_judge_is_warned_of():
    """Guards against a table that judges a selector's gain by itself, or an ensemble's by one of its members."""
    generator = np.random.default_rng(0)
    traces = traces_with({name: generator.random((5, 4)) for name in ("first", "both", "twin")})
    panel = Panel([verifier("first"), Ensemble("both", mean_level)], [ToyVerifier("twin", mean_level, "hash of first")])
    points = calculated(traces, panel)
    assert {point.selector for point in points} == {"random", "oracle (twin)"}
    rows = over_optimisation(points, [traces], panel, 0, 100)
    assert [(row.selector, row.judge, row.warning) for row in rows] == [
        ("first", "", NO_INDEPENDENT_JUDGE), ("both", "", NO_INDEPENDENT_JUDGE)
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------- searches of another kind


def beam_sweep(folder, function=first_level, model_hash=None) -> Sweep:
    reward = PartialVerifier("reward", function, model_hash)
    panel = Panel(
        [reward, verifier("other")],
        [ToyVerifier("judge", mean_level), ToyVerifier("twin", mean_level, "hash of reward")],
    )
    return Sweep(
        ToyCodec(),
        ProcessBeam("reward", 3, 2, 30, 10),
        SamplingSettings(),
        panel,
        CandidateStore(folder),
        "model",
        0,
        prompt_format=ToyFormat(),
    )


def test_a_reward_may_not_judge_its_search(tmp_path):
    """Guards against a curve over n of dependent beams, a reward verifier that judges without a label, and a cost
    without the discarded beams."""
    prompts, sweep, sampler = toy_prompts(4), beam_sweep(tmp_path), TreeSampler()
    sweep.run(prompts, sampler)
    results = summarise([[sweep]], {"set": prompts}, num_resamples=100)
    assert {point.n for point in results.points} == {3}
    lines = {(point.selector, point.judge) for point in results.points}
    assert lines == {("random", "judge"), ("reward", "judge"), ("other", "judge"), ("oracle (judge)", "judge"),
                     ("oracle (twin)", "twin")}  # fmt: skip
    traces = results.traces("set")
    drawn = sum(1000 * len(prompt.text) for prompt in prompts) + 1000 * sampler.num_tokens
    assert sum(trace.cost.lm_flops for trace in traces) == pytest.approx(drawn)
    by_line = {point.selector: point for point in results.points}
    final_seconds = np.mean([sum(one.num_codes for one in trace.candidates) / 50 for trace in traces])
    extra = by_line["other"].flops - by_line["reward"].flops
    assert extra == pytest.approx(100 * final_seconds)  # the reward has scored everything, the other the final ones
    assert by_line["random"].flops == pytest.approx(by_line["reward"].flops)
    for point in results.points:
        if point.selector == "reward":
            chosen = [max(trace.candidates, key=lambda one: one.scores["reward"]) for trace in traces]
            assert point.score <= max(one.scores["judge"] for one in chosen) and point.num_prompts == 4


def test_beams_of_another_reward_are_not_reused(tmp_path):
    """Guards against reusing stored candidates that another verifier selected."""
    prompts, first = toy_prompts(3), TreeSampler()
    beam_sweep(tmp_path).run(prompts, first)
    again = TreeSampler()
    beam_sweep(tmp_path).run(prompts, again)
    assert first.num_tokens > 0 == again.num_tokens
    beam_sweep(tmp_path, model_hash="another version").run(prompts, again)
    assert again.num_tokens > 0
    with pytest.raises(ValueError, match="Expected the reward of process_beam to be one of the selectors"):
        Sweep(ToyCodec(), ProcessBeam("absent", 3, 2, 30), SamplingSettings(), Panel([], [verifier("judge")]),
              CandidateStore(tmp_path), "model", 0, prompt_format=ToyFormat())  # fmt: skip
