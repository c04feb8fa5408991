"""callbacks/report_examples.py: which prompts of a sweep are played, and which clips of each."""

import math

import pytest
import torch

from callbacks.report_examples import gather_examples
from modules.api import Audio, Candidate, Prompt
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.analysis.curves import CurveCalculator
from modules.search.analysis.results import SweepResults, SweptPrompt
from modules.search.panel import Panel
from modules.search.protocol import Trace
from tests.toys.report_toys import RATE, ToneCodec, ToneVerifier

NAN = math.nan
# By prompt: the selector's and the judge's score of every sample; a score above 1 is of a sample that never ended.
SCORES = {
    "a": ([1, 0, 0], [0.5, 0.9, 0.1]),  # chose the first
    "b": ([0, 1, 0], [0.5, 0.6, 1.0]),  # + 0.1
    "c": ([0, 0, 1], [0.9, 1.0, 0.2]),  # - 0.7
    "d": ([0, 1, 0], [0.4, NAN, 0.4]),  # - 0.4: what the judge could not score is worst
    "e": ([0, 1, 0], [0.5, 0.5, 0.5]),  # another sample, no change
    "f": ([0, 1, 0], [1.5, 0.6, 0.5]),  # + 0.6: the first never ended
    "g": ([0, 1, 0], [0.5, 0.6, 0.5]),  # + 0.1, as b
}


def sweep(selector="chooser", reaches_ends=True):
    traces = []
    for place, (key, scores) in enumerate(SCORES.items()):
        prompt = Prompt(key, f"text of {key}", reference=Audio(torch.ones(800), RATE))
        candidates = []
        for number, (own, judged) in enumerate(zip(*scores, strict=True)):
            codes_S = torch.full((5,), (place + 3 * number) % 40)
            one = Candidate(key, number, number, codes_S, 0.0, stopped=not judged > 1)
            one.scores = {"chooser": float(own), "judge": judged}
            candidates.append(one)
        traces.append(Trace(prompt, candidates))
    judge, chooser = (ToneVerifier(name, lambda prompt, one: 0.0) for name in ("judge", "chooser"))
    judge.reaches_ends = reaches_ends
    panel = Panel([chooser] if selector else [], [judge])
    points = CurveCalculator("set", BestOfN(3, 9), traces, panel, seed=0, num_resamples=20).points()
    swept = [SweptPrompt("", "best_of_n", NAN, 0, "set", trace) for trace in traces]
    verifiers = [{"name": one.name, "roles": panel.roles(one.name)} for one in panel.everyone]
    return SweepResults(swept, points, {"verifiers": verifiers}), [chooser, judge]


@pytest.mark.parametrize("reaches_ends", [True, False])
def test_the_prompts_are_those_where_the_choice_changed_most(reaches_ends):
    """Guards against the first keys, against gains only, against an order that differs between two runs, and against an
    infinite change where the judge's scale has no ends."""
    results, verifiers = sweep(reaches_ends=reaches_ends)
    examples = gather_examples(results, ToneCodec(), verifiers, len(SCORES))
    assert [one.prompt.key for one in examples] == ["c", "f", "d", "b", "g", "e", "a"]
    changes = [one.choice.change for one in examples]
    assert changes == pytest.approx([-0.7, 0.6, -0.4, 0.1, 0.1, 0, 0])
    assert [one.prompt.key for one in gather_examples(results, ToneCodec(), verifiers, 2)] == ["c", "f"]


def test_first_sample_chosen_one_and_recording_are_played_once_and_in_order():
    """Guards against two players of one clip, and against a recording before the samples that it is compared with."""
    results, verifiers = sweep()
    examples = {one.prompt.key: one for one in gather_examples(results, ToneCodec(), verifiers, len(SCORES))}
    labels = {key: [clip.labels for clip in one.clips] for key, one in examples.items()}
    assert labels["c"] == [["first sample"], ["best of 3 by chooser"], ["recording"]]
    assert labels["a"] == [["first sample", "best of 3 by chooser"], ["recording"]]
    assert [clip.labels for clip in examples["a"].more] == [["codec resynthesis"]]
    choice = examples["f"].choice
    assert (choice.selector, choice.judge, choice.num_candidates) == ("chooser", "judge", 3)
    assert (choice.first_score, choice.chosen_score, choice.is_first) == (0.0, 0.6, False)


def test_without_an_independent_selector_the_keys_hashes_decide():
    """Guards against examples that the judge's own choice, the oracle, picks."""
    results, verifiers = sweep(selector="")
    examples = gather_examples(results, ToneCodec(), verifiers, 7)
    assert {one.choice for one in examples} == {None}
    keys = [one.prompt.key for one in examples]
    assert sorted(keys) == sorted(SCORES) and keys != ["c", "f", "d", "b", "g", "e", "a"]
    assert [one.clips[0].labels for one in examples] == [["first sample"]] * 7
