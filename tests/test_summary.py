"""What a finished sweep says of itself: failures counted from the store, whoever drew and whatever was asked before."""

from modules.api import SamplingSettings
from modules.search.best_of_n import BestOfN
from modules.search.candidates import CandidateStore
from modules.search.summary import summarise
from modules.search.sweep import Panel, Sweep
from tests.report_toys import Page
from tests.search_toys import HOP_LENGTH, ToyCodec, ToySampler, ToyVerifier, first_level, mean_level, toy_prompts
from tests.test_sweep_grid import run


def fails_at_odd_lengths(samples_T):
    if samples_T.numel() // HOP_LENGTH % 2:
        raise RuntimeError("an odd length")
    return mean_level(samples_T)


def sweep_in(folder, selectors, judges, final_judges=()) -> Sweep:
    panel = Panel(selectors, judges, final_judges)
    return Sweep(ToyCodec(), BestOfN(6, 12), SamplingSettings(), panel, CandidateStore(folder), "model", 0)


def test_failures_of_every_rank_are_counted(tmp_path):
    """Guards against a count of what this process saw fail: another rank's failures stand in the store alone."""
    prompts, panel = toy_prompts(6), ([ToyVerifier("first", first_level)], [ToyVerifier("odd", fails_at_odd_lengths)])
    ranks = [sweep_in(tmp_path, *panel) for _ in range(2)]
    for rank, sweep in enumerate(ranks):
        sweep.run(prompts[rank::2], ToySampler())
    results = summarise(ranks[0], {"set": prompts}, 50)
    candidates = [one for trace in results.prompt_sets["set"] for one in trace.candidates]
    expected = sum(one.num_codes % 2 for one in candidates)
    assert 0 < expected < len(candidates)
    assert results.description["num_score_failures"] == expected
    later = summarise(sweep_in(tmp_path, *panel), {"set": prompts}, 50)  # nobody here has run
    assert later.description["num_score_failures"] == expected


def test_failures_of_every_search_and_seed_are_counted(tmp_path):
    """Guards against a page that tells the failures of the first search and seed as those of all."""
    odd = ToyVerifier("odd", fails_at_odd_lengths)
    results = run(tmp_path, more_selectors=[odd], more_seeds=[1])[0].results
    everything = [one for first in (results, *results.others) for one in (first, *first.other_seeds)]
    traces = [trace for one in everything for trace in one.prompt_sets["set"]]
    expected = sum(one.num_codes % 2 for trace in traces for one in trace.candidates)
    assert len(everything) == 12 and expected > 20
    assert results.description["num_score_failures"] == expected
    text = Page((tmp_path / "report" / "index.html").read_text()).text
    assert f"Scores that failed with an exception: {expected}." in text


def test_the_bound_is_that_of_the_dearest_prompts(tmp_path):
    """Guards against a bound that is that of the last prompt set alone."""
    panel = ([], [ToyVerifier("judge", mean_level)])
    prompts = toy_prompts(6)
    long, short = prompts[3:], prompts[:3]
    alone = sweep_in(tmp_path / "alone", *panel)
    alone.run(long, ToySampler())
    both = sweep_in(tmp_path / "both", *panel)
    for own in (long, short):
        both.run(own, ToySampler())
    assert both.most_flops == alone.most_flops
