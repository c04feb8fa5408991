"""The candidate store and the sweep over it: resume, damage, new selectors, changed models."""

import json
import math

import pytest
import torch

from modules.api import Audio, Prompt, SamplingSettings
from modules.provenance import digest
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.candidate_store import CandidateStore
from modules.search.identity import candidate_identity
from modules.search.panel import Panel, chosen_index, unique_prompts
from modules.search.summary import summarise
from modules.search.sweep import Sweep
from tests.toys.search_toys import (
    ToyCodec,
    ToyFormat,
    ToySampler,
    ToyVerifier,
    WritingVerifier,
    first_level,
    last_level_or_nan,
    mean_level,
    toy_prompts,
)


def sweep_in(folder, selectors=(), judges=None, codec=None, **changes):
    panel = Panel(selectors, judges or [ToyVerifier("judge", mean_level)], changes.pop("final_judges", ()))
    settings = {
        "algorithm": BestOfN(4, 12),
        "sampling": SamplingSettings(),
        "model_hash": "model",
        "seed": 7,
        "prompt_format": ToyFormat(),
    } | changes
    return Sweep(codec or ToyCodec(), panel=panel, store=CandidateStore(folder), **settings)


def content(sweep, prompts):
    traces = [sweep.record(prompt).trace for prompt in prompts]
    return [(one.codes_S.tolist(), one.seed, one.stopped, one.scores) for trace in traces for one in trace.candidates]


def test_a_killed_sweep_goes_on_and_draws_nothing_twice(tmp_path):
    """Guards against lost work, and against a resumed sweep that differs from an uninterrupted one."""
    prompts = toy_prompts(5)
    killed = ToySampler(fail_at_call=3)
    with pytest.raises(KeyboardInterrupt):
        sweep_in(tmp_path / "killed").run(prompts, killed, prompts_per_group=2)
    assert killed.num_drawn == 4 * 4
    assert not killed.alive
    resumed, judge = ToySampler(), ToyVerifier("judge", mean_level)
    sweep = sweep_in(tmp_path / "killed", judges=[judge])
    sweep.run(prompts, resumed, prompts_per_group=2)
    assert resumed.num_drawn == 4
    assert {key for key, _ in judge.asked} == {"prompt4"}
    whole = sweep_in(tmp_path / "whole")
    whole.run(prompts, ToySampler(), prompts_per_group=5)
    assert repr(content(sweep, prompts)) == repr(content(whole, prompts))  # repr: NaN equals NaN
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_new_selector_is_scored_without_sampling(tmp_path):
    """Guards against sampling again, and against scoring other audio with the new selector."""
    prompts = toy_prompts(3)
    sweep_in(tmp_path).run(prompts, ToySampler())
    selector, judge = ToyVerifier("later", last_level_or_nan), ToyVerifier("judge", mean_level)
    sweep = sweep_in(tmp_path, [selector], [judge])
    sweep.run(prompts, ToySampler(fail_at_call=1))
    assert judge.asked == []
    direct = sweep_in(tmp_path / "direct", [ToyVerifier("later", last_level_or_nan)])
    direct.run(prompts, ToySampler())
    assert repr([one[3]["later"] for one in content(sweep, prompts)]) == repr(
        [one[3]["later"] for one in content(direct, prompts)]
    )
    for prompt in prompts:
        ours, theirs = sweep.record(prompt).trace, direct.record(prompt).trace
        assert ours.cost_with(["later"]).verifier_flops == pytest.approx(theirs.cost_with(["later"]).verifier_flops)
        assert ours.cost_with(["later"]).verifier_flops > 0


def test_costs_are_those_of_the_present_panel(tmp_path):
    """Guards against charging a resumed sweep for removed selectors, for the first version of a changed one, or for
    decoding twice, or not charging for a judge that became a selector."""
    prompts = toy_prompts(3)

    def sweep(selectors, judges):
        return sweep_in(tmp_path, [ToyVerifier(name, mean_level, name) for name in selectors], [
            ToyVerifier(name, mean_level, name) for name in judges
        ])  # fmt: skip

    def point(sweep, name):
        return next(
            one
            for one in summarise([[sweep]], {"set": prompts}, num_resamples=50).points
            if (one.selector, one.n) == (name, 4)
        )

    first = sweep(["one", "two"], ["judge"])
    first.run(prompts, ToySampler())
    seconds = [one.cost.seconds for prompt in prompts for one in first.record(prompt).trace.candidates]
    expected = point(first, "one").flops
    second = sweep(["one", "judge"], ["new judge"])
    second.run(prompts, ToySampler(fail_at_call=1))
    assert seconds == [one.cost.seconds for prompt in prompts for one in second.record(prompt).trace.candidates]
    assert point(second, "one").flops == point(second, "judge").flops == expected
    second.panel.selectors[0].model_hash = "second version"
    third = sweep_in(tmp_path, second.panel.selectors, second.panel.judges)
    third.run(prompts, ToySampler(fail_at_call=1))
    assert point(third, "one").flops == expected > point(third, "random").flops


def test_scores_of_another_verifier_decoder_or_reference_are_not_reused(tmp_path):
    """Guards against a table that mixes two versions of a verifier, two decoders or two reference voices."""
    prompts = toy_prompts(2)
    sweep_in(tmp_path).run(prompts, ToySampler())

    def num_asked(prompts=prompts, codec=None, **attributes):
        judge = ToyVerifier("judge", mean_level)
        for name, value in attributes.items():
            setattr(judge, name, value)
        sweep_in(tmp_path, judges=[judge], codec=codec).run(prompts, ToySampler(fail_at_call=1))
        return len(judge.asked)

    assert num_asked() == 0
    all_of_them = num_asked(model_hash="second version")
    assert all_of_them > 0
    assert num_asked(model_hash="second version") == 0
    assert num_asked(model_hash="second version", settings={"normaliser": "numbers"}) == all_of_them
    assert num_asked() == all_of_them  # back to the first version, so that next only the decoder differs
    assert num_asked() == 0
    assert num_asked(codec=ToyCodec(gain=0.5)) == all_of_them
    assert num_asked(codec=ToyCodec(gain=0.5)) == 0
    voices = [Audio(torch.full((8,), level), 800) for level in (0.1, 0.2)]
    spoken = [[Prompt(one.key, one.text, reference=voice) for one in prompts] for voice in voices]
    assert num_asked(spoken[0], needs_reference=True) == all_of_them
    assert num_asked(spoken[0], needs_reference=True) == 0
    assert num_asked(spoken[1], needs_reference=True) == all_of_them


def test_candidates_of_earlier_versions_are_still_found():
    """Guards against a new setting that, at its default, invalidates all stored candidates: the digest is that of
    format 3. A setting with an effect is another setting."""

    def name_of(**settings):
        sampling = SamplingSettings(0.8, **settings)
        return digest(candidate_identity("m", ToyFormat(), ToyCodec(), Prompt("k", "t"), sampling, BestOfN(4, 12), 7))

    assert name_of() == "7e782f9c84e2d52f337dff1d1770fc0cb5a28572dcb6172c040ea67af0814d92"
    assert len({name_of(), name_of(min_p=0.1), name_of(repetition_penalty=1.1)}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"model_hash": "other"},
        {"seed": 8},
        {"sampling": SamplingSettings(temperature=0.8)},
        {"algorithm": BestOfN(5, 12)},
        {"codec": type("OtherCodec", (ToyCodec,), {"fingerprint": "other"})()},
    ],
    ids=["model", "seed", "sampling", "algorithm", "codec"],
)
def test_another_setting_samples_again(tmp_path, change):
    """Guards against reusing candidates of another model or setting."""
    sweep_in(tmp_path).run(toy_prompts(1), ToySampler())
    sampler = ToySampler()
    sweep_in(tmp_path, **change).run(toy_prompts(1), sampler)
    assert len(sampler.extended) == 1


@pytest.mark.parametrize("changed", [Prompt("prompt0", "other text"), Prompt("prompt0", "word ", language="es")])
def test_another_text_under_the_same_key_samples_again(tmp_path, changed):
    """Guards against scoring candidates of an earlier text with the new one."""
    sweep_in(tmp_path).run(toy_prompts(1), ToySampler())
    sampler = ToySampler()
    sweep_in(tmp_path).run([changed], sampler)
    assert sampler.num_drawn == 4


def truncated(text: str) -> str:
    return text[: len(text) // 2]


def one_code_changed(text: str) -> str:
    body = json.loads(text)
    codes = next(one["codes"] for one in body["candidates"] if one["codes"])
    codes[0] = (codes[0] + 1) % 16
    return json.dumps(body)


def not_a_record(text: str) -> str:
    return "[1, 2]"


@pytest.mark.parametrize("damage", [truncated, one_code_changed, not_a_record])
def test_a_damaged_file_is_reported_set_aside_and_sampled_again(tmp_path, caplog, damage):
    """Guards against a crash for a truncated file and against silent use of altered codes."""
    prompts = toy_prompts(2)
    sweep = sweep_in(tmp_path)
    sweep.run(prompts, ToySampler())
    before = content(sweep, prompts)
    (path,) = tmp_path.glob("prompt1-*.json")
    path.write_text(damage(path.read_text()))
    sampler = ToySampler()
    sweep.run(prompts, sampler)
    assert sampler.extended == [(1, 4)]
    assert "damaged" in caplog.text
    assert [one.name for one in tmp_path.glob("*.damaged")] == [f"{path.name}.damaged"]
    assert repr(content(sweep, prompts)) == repr(before)


def test_a_write_that_is_cut_off_leaves_the_old_file(tmp_path, monkeypatch):
    """Guards against an incomplete file under the real name: a kill during the write must not lose stored data."""
    prompts = toy_prompts(1)
    sweep_in(tmp_path).run(prompts, ToySampler())
    (path,) = tmp_path.iterdir()
    before = path.read_text()

    def killed(descriptor):
        raise KeyboardInterrupt

    sweep = sweep_in(tmp_path, [ToyVerifier("later", mean_level)])
    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(prompts, ToySampler(fail_at_call=1))
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == before


def test_scores_that_failed_with_an_exception_are_tried_again(tmp_path):
    """Guards against storing a transient failure (memory, a broken pipe) permanently as "cannot be scored"."""

    def broken(samples_T):
        raise RuntimeError("passing fault")

    prompts = toy_prompts(1)
    sweep = sweep_in(tmp_path, judges=[ToyVerifier("judge", broken)])
    num_failures = sweep.run(prompts, ToySampler())
    assert all(math.isnan(one[3]["judge"]) for one in content(sweep, prompts))
    assert num_failures == len([one for one in content(sweep, prompts) if one[0]])
    sweep.panel.judges[0].function = mean_level
    assert sweep.run(prompts, ToySampler(fail_at_call=1)) == 0
    filled = [one for one in content(sweep, prompts) if one[0]]
    assert filled and not any(math.isnan(one[3]["judge"]) for one in filled)


def test_final_judges_score_only_the_first_and_the_selected(tmp_path):
    """Guards against an expensive judge on every candidate, and against one that misses a selected one."""
    prompts = toy_prompts(4)
    selectors = [ToyVerifier("mean", mean_level), WritingVerifier("first", first_level)]
    expensive = ToyVerifier("expensive", lambda samples_T: float(samples_T.numel()))
    sweep = sweep_in(tmp_path, selectors, final_judges=[expensive], algorithm=BestOfN(8, 12))
    sweep.run(prompts, ToySampler())
    expected, written = set(), set()
    for prompt in prompts:
        record = sweep.record(prompt)
        candidates = record.trace.candidates
        places = {0} | {chosen_index(candidates, name) for name in ("mean", "first")}
        expected |= {(prompt.key, place) for place in places if candidates[place].num_codes}
        written |= {(prompt.key, index) for index, _ in record.hypotheses}
        for (index, name), text in record.hypotheses.items():
            assert (name, text) == ("first", f"{prompt.key} {index}: {candidates[index].num_codes}")
    assert sorted(expensive.asked) == sorted(expected) and written == expected
    sweep.run(prompts, ToySampler(fail_at_call=1))
    assert len(expensive.asked) == len(expected)


def test_one_key_for_two_texts_is_refused():
    """Guards against two prompts that share one file; a repeat (padding of a distributed sampler) is dropped."""
    assert unique_prompts([Prompt("a", "x"), Prompt("a", "x"), Prompt("b", "x")]) == [
        Prompt("a", "x"),
        Prompt("b", "x"),
    ]
    with pytest.raises(ValueError, match="Expected `key` to name one prompt"):
        unique_prompts([Prompt("a", "x"), Prompt("a", "y")])


def test_ambiguous_panels_are_refused():
    """Guards against scores of two models under one name, and against a curve without a judge."""
    one, other = ToyVerifier("same", mean_level), ToyVerifier("same", mean_level, "other hash")
    with pytest.raises(ValueError, match="Expected `name` to be unique to one verifier"):
        Panel([one], [other])
    with pytest.raises(ValueError, match="Expected at least one verifier"):
        Panel([one], [])
    with pytest.raises(ValueError, match="or in `final_judges`"):
        Panel([], [one], [one])
