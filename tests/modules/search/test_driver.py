"""Best-of-n through the driver: batching, seeds, costs, failing verifiers."""

import math
from types import SimpleNamespace

import pytest
import torch

from modules.api import Cost, Prompt, Sampler, Verifier
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.costs import search_cost, share_seconds
from modules.search.driver import run_searches
from modules.search.growth import candidate_seed
from modules.search.panel import chosen_index
from modules.search.protocol import SearchAlgorithm
from modules.search.scorer import Scorer
from tests.toys.search_toys import HOP_LENGTH, ToyCodec, ToySampler, ToyVerifier, mean_level, toy_prompts


def run(prompts, num_candidates=4, sampler=None, codec=None, selectors=(), decode_batch_size=16):
    scorer = Scorer(codec or ToyCodec(), decode_batch_size)
    return run_searches(prompts, BestOfN(num_candidates, 12), sampler or ToySampler(), scorer, selectors, 7)


def test_toys_and_algorithm_satisfy_the_protocols():
    """Guards against testing with toys that the real classes could not replace."""
    assert isinstance(ToySampler(), Sampler)
    assert isinstance(ToyVerifier("one", mean_level), Verifier)
    assert isinstance(BestOfN(1, 1), SearchAlgorithm)


def test_generation_is_batched_across_prompts_and_gives_what_single_prompts_give():
    """Guards against one call of the sampler per prompt, and against children assigned to the wrong prompt."""
    prompts, sampler = toy_prompts(5), ToySampler()
    together = run(prompts, sampler=sampler)
    assert sampler.extended == [(5, 4)]
    assert not sampler.alive
    for prompt, trace in zip(prompts, together, strict=True):
        (alone,) = run([prompt])
        assert trace.prompt is prompt
        for one, other in zip(trace.candidates, alone.candidates, strict=True):
            assert (one.prompt_key, one.seed, one.stopped) == (prompt.key, other.seed, other.stopped)
            assert torch.equal(one.codes_S, other.codes_S)
            assert torch.equal(one.audio.samples_T, other.audio.samples_T)


def test_more_candidates_keep_the_first_ones():
    """Guards against seeds that depend on N: best of 8 must contain best of 3."""
    few, many = run(toy_prompts(2), 3), run(toy_prompts(2), 8)
    for one, other in zip(few, many, strict=True):
        assert [candidate.seed for candidate in one.candidates] == [item.seed for item in other.candidates[:3]]
    seeds = {candidate_seed(seed, key, index) for seed in (0, 1) for key in "ab" for index in range(50)}
    assert len(seeds) == 200


def test_audio_is_decoded_in_padded_batches_and_cut():
    """Guards against padding that is left on the audio and against decoding one by one."""
    codec = ToyCodec()
    traces = run(toy_prompts(4), codec=codec, decode_batch_size=6)
    candidates = [candidate for trace in traces for candidate in trace.candidates]
    num_filled = sum(candidate.num_codes > 0 for candidate in candidates)
    assert [batch[0] for batch in codec.batches] == [6] * (num_filled // 6) + [num_filled % 6] * (num_filled % 6 > 0)
    for candidate in candidates:
        expected_T = (candidate.codes_S.float() / 16).repeat_interleave(HOP_LENGTH)
        assert torch.equal(candidate.audio.samples_T, expected_T)


def test_costs_add_up():
    """Guards against costs without the prompt, the decoder or a selector, or with the seconds counted twice."""
    selectors = [ToyVerifier("one", mean_level), ToyVerifier("two", mean_level)]
    for trace in run(toy_prompts(3), selectors=selectors):
        for candidate in trace.candidates:
            num_codes, cost = candidate.num_codes, candidate.cost
            assert {name: one.verifier_flops for name, one in candidate.verifier_costs.items()} == {
                name: pytest.approx(100 * num_codes / 50) for name in ("one", "two")
            }
            assert cost.lm_flops == 1000 * (len(trace.prompt.text) + num_codes)
            assert cost.codec_flops == 10 * num_codes
            assert cost.verifier_flops == 0 and cost.seconds > 0
    flops = [search_cost(trace, ["one"] if n > 1 else [], n).flops for n in (1, 2, 4)]
    total = trace.cost_with(["one", "two"])
    assert total.verifier_flops == pytest.approx(2 * 100 * sum(one.num_codes for one in trace.candidates) / 50)
    assert total.seconds > trace.cost.seconds
    prompt_flops = 1000 * len(trace.prompt.text)  # processed once, for one candidate or for all
    assert total.prompt_flops == prompt_flops
    assert total.lm_flops == prompt_flops + 1000 * sum(candidate.num_codes for candidate in trace.candidates)
    assert flops[0] == pytest.approx(prompt_flops + (total.lm_flops + total.codec_flops - prompt_flops) / 4)
    assert flops[2] == pytest.approx(total.lm_flops + total.codec_flops + total.verifier_flops / 2)
    assert sum(share_seconds(3.0, [1, 2, 0])) == pytest.approx(3.0)
    assert share_seconds(3.0, [0, 0]) == [1.5, 1.5]
    assert Cost(1, 2, 3, 4) + Cost(1, 1, 1, 1) == Cost(2, 3, 4, 5)


def test_reading_the_prompts_is_in_the_seconds(monkeypatch):
    """Guards against wall seconds that begin with the first code: long prompts would cost nothing."""

    clock = 0.0
    monkeypatch.setattr("modules.search.driver.time", SimpleNamespace(perf_counter=lambda: clock))

    class SlowReader(ToySampler):
        def start(self, prompts):
            nonlocal clock
            clock += 3.0
            return super().start(prompts)

    traces = run(toy_prompts(3), sampler=SlowReader())
    lengths = [len(trace.prompt.text) for trace in traces]
    shares = [3.0 * length / sum(lengths) for length in lengths]
    assert [trace.cost.seconds for trace in traces] == pytest.approx(shares)


def test_a_failing_verifier_spoils_only_the_failing_candidate(caplog):
    """Guards against a crash of the whole sweep, and against one bad candidate that loses the others' scores."""

    def fragile(samples_T):
        if samples_T.numel() > 6 * HOP_LENGTH:
            raise RuntimeError("too long for me")
        return mean_level(samples_T)

    traces = run(toy_prompts(3), 8, selectors=[ToyVerifier("fragile", fragile)])
    candidates = [candidate for trace in traces for candidate in trace.candidates]
    assert any(one.failed for one in candidates)
    for candidate in candidates:
        assert candidate.failed == ({"fragile"} if candidate.num_codes > 6 else set())
        assert math.isnan(candidate.scores["fragile"]) == (candidate.num_codes > 6 or candidate.num_codes == 0)
    assert "too long for me" in caplog.text


def test_a_missing_package_stops_the_sweep_and_frees_the_branches():
    """Guards against a broken installation that looks like a verifier whose scores are all NaN, and against leaks."""

    def uninstalled(samples_T):
        raise ImportError("pip install something")

    sampler = ToySampler()
    with pytest.raises(ImportError):
        run(toy_prompts(2), sampler=sampler, selectors=[ToyVerifier("uninstalled", uninstalled)])
    assert not sampler.alive


def test_scores_that_are_missing_never_win():
    """Guards against max() with NaN, which keeps the first element."""
    (trace,) = run([Prompt("key", "text")], 4)
    for candidate, score in zip(trace.candidates, [math.nan, 0.5, 0.7, 0.7], strict=True):
        candidate.scores["one"] = score
    assert chosen_index(trace.candidates, "one") == 2
    assert chosen_index(trace.candidates, "absent") == 0
