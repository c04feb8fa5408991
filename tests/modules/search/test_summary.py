"""Summary of a finished sweep: failures counted from the store, independent of ranks and earlier panels."""

import json
from itertools import product

from modules.api import SamplingSettings
from modules.search.algorithms.adaptive import Adaptive
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.algorithms.process_beam import ProcessBeam
from modules.search.candidate_store import CandidateStore
from modules.search.panel import Panel, chosen_index
from modules.search.summary import summarise
from modules.search.sweep import Sweep
from tests.callbacks.test_inference_scaling import timeless
from tests.callbacks.test_sweep_grid import PartialVerifier, run
from tests.modules.search.test_sweep_models import ToyModel
from tests.toys.report_toys import Page
from tests.toys.search_toys import (
    HOP_LENGTH,
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


def fails_at_odd_lengths(samples_T):
    if samples_T.numel() // HOP_LENGTH % 2:
        raise RuntimeError("an odd length")
    return mean_level(samples_T)


def sweep_in(folder, selectors, judges, final_judges=()) -> Sweep:
    panel = Panel(selectors, judges, final_judges)
    return Sweep(
        ToyCodec(),
        BestOfN(6, 12),
        SamplingSettings(),
        panel,
        CandidateStore(folder),
        "model",
        0,
        prompt_format=ToyFormat(),
    )


def test_failures_of_every_rank_are_counted(tmp_path):
    """Guards against counting only this process's failures: another rank's are only in the store."""
    prompts, panel = toy_prompts(6), ([ToyVerifier("first", first_level)], [ToyVerifier("odd", fails_at_odd_lengths)])
    ranks = [sweep_in(tmp_path, *panel) for _ in range(2)]
    for rank, sweep in enumerate(ranks):
        sweep.run(prompts[rank::2], ToySampler())
    results = summarise([[ranks[0]]], {"set": prompts}, num_resamples=50)
    candidates = [one for trace in results.traces("set") for one in trace.candidates]
    expected = sum(one.num_codes % 2 for one in candidates)
    assert 0 < expected < len(candidates)
    assert results.description["num_score_failures"] == expected
    later = summarise([[sweep_in(tmp_path, *panel)]], {"set": prompts}, num_resamples=50)  # nobody here has run
    assert later.description["num_score_failures"] == expected


def test_failures_of_every_search_and_seed_are_counted(tmp_path):
    """Guards against a page that reports the failures of the first search and seed as those of all."""
    odd = ToyVerifier("odd", fails_at_odd_lengths)
    results = run(tmp_path, more_selectors=[odd], more_seeds=[1])[0].results
    expected = sum(one.num_codes % 2 for own in results.swept for one in own.trace.candidates)
    assert len({(one.search, one.seed) for one in results.swept}) == 12 and expected > 20
    assert results.description["num_score_failures"] == expected
    text = Page((tmp_path / "report" / "index.html").read_text()).text
    assert f"Scores that failed with an exception: {expected}." in text


def test_results_do_not_depend_on_earlier_panels(tmp_path):
    """Guards against stored scores by an expensive judge of another selector's selections in the counts, spreads and
    gains of this one's, and against their texts and costs in its tables."""
    expensive = WritingVerifier("expensive", lambda samples_T: float(samples_T.numel()))
    prompts, panel = toy_prompts(6), ([ToyVerifier("last", last_level_or_nan)], [ToyVerifier("judge", mean_level)])
    found = []
    for folder, before in (("fresh", []), ("used", [ToyVerifier("length", lambda samples_T: -samples_T.numel())])):
        if before:
            sweep_in(tmp_path / folder, before, panel[1], [expensive]).run(prompts, ToySampler())
        sweep = sweep_in(tmp_path / folder, *panel, [expensive])
        sweep.run(prompts, ToySampler())
        results = summarise([[sweep]], {"set": prompts}, num_resamples=50)
        about = [
            (one.index, one.scores, sorted(one.verifier_costs))
            for trace in results.traces("set") for one in trace.candidates
        ]  # fmt: skip
        found.append((results, repr(([one.hypotheses for one in results.swept], timeless(results.points), about))))
    (fresh, own), (used, other) = found
    assert own == other
    assert repr(fresh.over_optimisation) == repr(used.over_optimisation) and fresh.over_optimisation
    heard = ["expensive" in one.scores for trace in used.traces("set") for one in trace.candidates]
    assert len(prompts) < sum(heard) <= 2 * len(prompts)


def test_the_card_names_every_search(tmp_path):
    """Guards against an evaluation card, and a page, of a grid that name only the settings of its first search."""
    algorithms = [BestOfN(4, 40), ProcessBeam("reward", 2, 2, 40, 10), ProcessBeam("reward", 3, 2, 40, 10)]
    models = {"small": "toy model", "large": "another model"}
    settings = {"algorithm": algorithms[0], "more_algorithms": algorithms[1:], "more_seeds": [1], "model_name": "small"}
    run(tmp_path, more_models=[ToyModel("large", [])], **settings)
    found = json.loads((tmp_path / "report" / "summary.json").read_text())["description"]["searches"]
    expected = [
        (model, model_hash, temperature, algorithm.name, getattr(algorithm, "num_beams", None), [0, 1])
        for (model, model_hash), temperature, algorithm in product(models.items(), (0.9, 0.5), algorithms)
    ]
    assert [
        (one["model"], one["model_hash"], one["sampling"]["temperature"], one["algorithm"]["name"].split()[0],
         one["algorithm"].get("num_beams"), one["seeds"]) for one in found
    ] == expected  # fmt: skip
    page = Page((tmp_path / "report" / "index.html").read_text())
    shown = page.tables["searches"][1:]
    assert len(shown) == len(expected)
    for cells, (model, model_hash, temperature, algorithm, num_beams, _) in zip(shown, expected, strict=True):
        assert cells[0].startswith(f"name {algorithm}") and (num_beams is None or f"num_beams {num_beams}" in cells[0])
        assert f"temperature {temperature}" in cells[1] and cells[2] == "0, 1" and cells[4] == f"{model} {model_hash}"
    alone = run(tmp_path / "alone", more_algorithms=None, more_temperatures=None)[0].results
    (only,) = alone.description["searches"]
    assert (only["seeds"], only["sampling"]["temperature"], "model" in only) == ([0], 0.9, False)


def test_the_card_identifies_candidates_by_their_index(tmp_path):
    """Guards against selections by position combined with texts by index: a search that discarded candidates has others
    there."""
    healthy = PartialVerifier("health", lambda samples_T: float(samples_T.numel() < 20 * HOP_LENGTH))
    writer = WritingVerifier("writer", mean_level)
    algorithm = Adaptive("reward", 8, 40, price=0.0, health="health", block_tokens=25)
    callback, _, _ = run(
        tmp_path, algorithm=algorithm, more_algorithms=None, more_temperatures=None, more_selectors=[healthy, writer]
    )
    results = callback.results
    chosen = json.loads((tmp_path / "report" / "summary.json").read_text())["chosen"]["set"]
    indices = [index for by_key in chosen.values() for index in by_key.values()]
    places = []
    for selector, by_key in chosen.items():
        for own in results.first_swept:
            index, candidates = by_key[own.trace.prompt.key], own.trace.candidates
            places.append(chosen_index(candidates, selector))
            assert index == candidates[places[-1]].index
            assert (index, "writer") in own.hypotheses
    assert indices != places


def test_the_bound_is_that_of_the_most_expensive_prompts(tmp_path):
    """Guards against a bound that is only that of the last prompt set."""
    panel = ([], [ToyVerifier("judge", mean_level)])
    prompts = toy_prompts(6)
    long, short = prompts[3:], prompts[:3]
    alone = sweep_in(tmp_path / "alone", *panel)
    alone.run(long, ToySampler())
    both = sweep_in(tmp_path / "both", *panel)
    for own in (long, short):
        both.run(own, ToySampler())
    assert both.most_flops == alone.most_flops
