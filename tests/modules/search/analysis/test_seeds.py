"""Seeds, speakers, seconds and disagreement: against naive loops, scipy, and separate sweeps."""

import csv
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from modules.api import Cost, Prompt, SamplingSettings
from modules.search.algorithms.adaptive import Adaptive
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.algorithms.diverse_beam import DiverseBeam
from modules.search.algorithms.process_beam import ProcessBeam
from modules.search.analysis.candidate_tables import write_candidates
from modules.search.analysis.comparisons import compare
from modules.search.analysis.seeds import averaged
from modules.search.candidate_store import CandidateStore
from modules.search.panel import Panel
from modules.search.protocol import Trace
from modules.search.summary import summarise
from modules.search.sweep import Sweep
from modules.statistics import Resamples, bootstrap_interval, cluster_interval, difference_ends
from modules.verifiers.ensemble import Ensemble
from tests.callbacks.test_inference_scaling import timeless
from tests.callbacks.test_sweep_grid import run
from tests.modules.search.analysis.test_overoptimisation import PartialVerifier, calculated, traces_with, verifier
from tests.toys.report_toys import Page
from tests.toys.search_toys import ToyCodec, ToyFormat, ToySampler, ToyVerifier, first_level, mean_level, toy_prompts

FORMAT = {"prompt_format": ToyFormat()}

# ---------------------------------------------------------------------------------------------------------- speakers


def test_points_and_comparisons_carry_the_interval_over_speakers():
    """Guards against speakers lost between the prompts and the tables."""
    generator = np.random.default_rng(1)
    scores = {name: generator.normal(size=(12, 4)) for name in ("good", "judge")}
    traces = traces_with(scores)
    speakers = [f"s{place % 4}" for place in range(12)]
    traces = [
        Trace(replace(trace.prompt, speaker=name), trace.candidates)
        for trace, name in zip(traces, speakers, strict=True)
    ]
    points = calculated(traces, Panel([verifier("good")], [verifier("judge")]))
    for point in points:
        expected = cluster_interval(point.scores_P, speakers, 0, 400, point.ends)
        assert (point.speaker_low, point.speaker_high, point.num_speakers) == (*expected, 4)
    by_line = {(point.selector, point.n): point.scores_P for point in points}
    for one in compare(points, 0, 400):
        first, second = (by_line[label.split(": ")[1], one.n] for label in (one.first, one.second))
        expected = cluster_interval(first - second, speakers, 0, 400, difference_ends(points[0].ends))
        assert (one.speaker_low, one.speaker_high) == pytest.approx(expected)


# ----------------------------------------------------------------------------------------------------------- seconds


def test_seconds_are_those_of_the_line():
    """Guards against charging a line for the selectors of other lines or of an earlier run, charging random for
    selection, and seconds of n candidates that are those of all."""
    generator = np.random.default_rng(2)
    traces = traces_with({name: generator.normal(size=(3, 4)) for name in ("one", "two", "judge")})
    for trace in traces:
        for candidate in trace.candidates:
            candidate.cost = Cost(10.0, 2.0, seconds=4.0, prompt_flops=4.0)
            candidate.verifier_costs = {
                "one": Cost(verifier_flops=5.0, seconds=1.0),
                "two": Cost(verifier_flops=6.0, seconds=2.0),
                "no longer asked": Cost(verifier_flops=7.0, seconds=100.0),
            }
    panel = Panel([verifier("one"), verifier("two")], [verifier("judge")])
    by_line = {(point.selector, point.n): point.seconds for point in calculated(traces, panel)}
    assert {n: by_line["random", n] for n in (1, 2, 4)} == {1: 4.0, 2: 4.0, 4: 4.0}
    assert {n: by_line["one", n] for n in (1, 2, 4)} == {1: 4.0, 2: 10.0, 4: 20.0}
    assert {n: by_line["two", n] for n in (1, 2, 4)} == {1: 4.0, 2: 12.0, 4: 24.0}
    assert math.isnan(by_line["oracle (judge)", 4])
    flops = {(point.selector, point.n): point.flops for point in calculated(traces, panel)}
    assert (flops["random", 4], flops["one", 1]) == (12.0, 12.0)
    assert (flops["one", 4], flops["two", 4]) == (4 + 4 * (6 + 2 + 5), 4 + 4 * (6 + 2 + 6))
    steered = Panel([PartialVerifier("one", mean_level), verifier("two")], [verifier("judge")])
    points = calculated(traces, steered, ProcessBeam("one", 4, 2, 10, 5))
    by_line = {point.selector: point.seconds for point in points}
    assert (by_line["random"], by_line["one"], by_line["two"]) == (16.0, 16.0, 24.0)
    # No selection cost for a single remaining candidate: 4 of the first two prompts, 1 of the third.
    left = [*traces[:2], Trace(traces[2].prompt, traces[2].candidates[:1])]
    by_line = {point.selector: point.seconds for point in calculated(left, steered, Adaptive("one", 4, 10))}
    assert (by_line["one"], by_line["two"]) == ((16 + 16 + 4) / 3, (24 + 24 + 4) / 3)
    by_line = {
        (point.selector, point.n): point.seconds for point in calculated(traces, steered, DiverseBeam("one", 4, 2, 10))
    }
    assert (by_line["one", 1], by_line["two", 1], by_line["two", 2]) == (4.0, 4.0, 12.0)


def test_what_every_verifier_costs_is_measured_and_stored(tmp_path):
    """Guards against a judge without cost once it is a selector, and against costs lost in the store."""
    panel = Panel([verifier("one"), verifier("two")], [verifier("judge")])
    sweep = Sweep(
        ToyCodec(),
        BestOfN(4, 12),
        SamplingSettings(),
        panel,
        CandidateStore(tmp_path),
        "m",
        0,
        prompt_format=ToyFormat(),
    )
    prompts = toy_prompts(3)
    sweep.run(prompts, ToySampler())
    for prompt in prompts:
        for candidate in sweep.record(prompt).trace.candidates:
            assert {name: cost.verifier_flops for name, cost in candidate.verifier_costs.items()} == {
                name: pytest.approx(100 * candidate.num_codes / 50) for name in ("one", "two", "judge")
            }
            assert candidate.cost.verifier_flops == 0
            timed = [candidate.cost, *candidate.verifier_costs.values()]
            assert all(cost.seconds > 0 or not candidate.num_codes for cost in timed)


# ------------------------------------------------------------------------------------------------------------- seeds


def test_several_seeds_give_the_mean_of_what_each_gives_alone(tmp_path):
    """Guards against seeds that sample the same candidates, a mean over some of them, an interval of one of them, and
    adaptive searches whose n differs between seeds."""
    together, sampler, _ = run(tmp_path / "all", more_seeds=[1, 2], more_temperatures=None)
    alone = [run(tmp_path / str(seed), seed=seed, more_temperatures=None)[0].results for seed in (0, 1, 2)]
    results = together.results
    num_checked = 0
    for point in results.points:
        line = (point.algorithm, point.selector, point.judge)
        own = [
            one for each in alone for one in each.points
            if (one.algorithm, one.selector, one.judge) == line
            and (one.n == point.n or one.algorithm == "adaptive")
        ]  # fmt: skip
        assert len(own) == 3 == point.num_seeds
        scores_P = np.mean([one.scores_P for one in own], axis=0)
        np.testing.assert_allclose(point.scores_P, scores_P, atol=1e-12)
        assert point.score == pytest.approx(scores_P.mean())
        assert point.seed_deviation == pytest.approx(np.std([one.score for one in own], ddof=1))
        assert (point.low, point.high) == bootstrap_interval(scores_P, Resamples.draw(5, 0, 100), point.ends)
        assert point.flops == pytest.approx(np.mean([one.flops for one in own]), nan_ok=True)
        assert point.n == max(one.n for one in own)
        num_checked += point.seed_deviation > 0
    assert num_checked > 5
    chance = {(one.algorithm, one.judge, one.n): one for one in results.points if one.selector == "random"}
    for point in results.points:
        if point.selector == "reward":
            baseline = chance[point.algorithm, point.judge, point.n]
            assert point.gain == pytest.approx(point.score - baseline.score)
    with (tmp_path / "all" / "report" / "seeds.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert sorted({int(row["seed"]) for row in rows}) == [0, 1, 2]
    for seed, each in enumerate(alone):
        ours = [float(row["score"]) for row in rows if int(row["seed"]) == seed]
        assert ours == [one.score for one in each.points]
    assert results.description["seeds"] == [0, 1, 2]
    assert len(list((tmp_path / "all" / "candidates").glob("*.json"))) == 5 * 3 * 3
    again, sampler, _ = run(tmp_path / "all", more_seeds=[1, 2], more_temperatures=None)
    assert sampler.num_tokens == 0 and timeless(again.results.points) == timeless(results.points)


def test_means_over_scored_candidates_weight_by_their_number():
    """Guards against equal weights for a seed with almost no scores and one with all: the reference is the mean over
    all scores of all seeds."""
    generator = np.random.default_rng(0)
    by_seed = [generator.uniform(size=(12, 4)) + 3 * place for place in range(3)]
    by_seed[1][1:] = math.nan
    by_seed[2][:] = math.nan
    panel = Panel([verifier("selector")], [verifier("judge")])
    curves = [
        calculated(traces_with({"judge": scores, "selector": generator.normal(size=(12, 4))}), panel)
        for scores in by_seed
    ]
    chance = {one.n: one.score_judged_only for one in averaged(curves, 0, 50) if one.selector == "random"}
    expected = np.concatenate([scores[~np.isnan(scores)] for scores in by_seed]).mean()
    assert chance == {1: pytest.approx(expected), 2: pytest.approx(expected), 4: pytest.approx(expected)}
    assert all(math.isnan(one.score_judged_only) for one in averaged(2 * curves[2:], 0, 50))


def test_over_optimisation_of_several_seeds_is_that_of_their_mean(tmp_path):
    """Guards against a row for every seed, gains of one seed, and an interval that treats a prompt's seeds as separate
    prompts: the reference uses all subsets of every seed's candidates."""
    length = PartialVerifier("length", lambda audio_T: float(audio_T.numel()))  # prefers unfinished candidates
    callback, _, _ = run(
        tmp_path, more_seeds=[1, 2], more_algorithms=None, more_temperatures=None, more_selectors=[length]
    )  # fmt: skip
    first = callback.results
    seeds = [[one.trace for one in first.swept if one.seed == seed] for seed in (0, 1, 2)]
    rows = {row.selector: row for row in first.over_optimisation}
    assert all(seeds) and len(first.over_optimisation) == len(rows) == 2
    resamples = Resamples.draw(5, 0, 100)
    spread = {
        name: np.nanstd([one.scores[name] for own in seeds for trace in own for one in trace.candidates])
        for name in ("reward", "length", "judge")
    }

    def mean_choice(trace, name, counted, n):
        """Mean score of the selection by `name`, over all subsets of n; random ties."""
        means = []
        for subset in itertools.combinations(range(4), n):
            ranks = [-math.inf if math.isnan(one.scores[name]) else one.scores[name] for one in trace.candidates]
            best = max(ranks[place] for place in subset)
            means.append(np.mean([counted[place] for place in subset if ranks[place] == best]))
        return np.mean(means)

    def gain_P(name, of, n):
        """(P,) gain from 1 to n in `of`: each prompt's mean over the seeds."""
        gains = []
        for trace in [trace for own in seeds for trace in own]:
            is_known = [not math.isnan(one.scores[of]) and (of != "judge" or one.stopped) for one in trace.candidates]
            counted = [one.scores[of] if known else -1.0 for one, known in zip(trace.candidates, is_known, strict=True)]
            gains.append(mean_choice(trace, name, counted, n) - mean_choice(trace, name, counted, 1))
        return np.reshape(gains, (3, 5)).mean(0) / spread[of]

    for name, row in rows.items():
        own_P, judge_P = gain_P(name, name, 4), gain_P(name, "judge", 4)
        assert (row.num_seeds, row.n, row.judge) == (3, 4, "judge")
        assert (row.own_gain, row.judge_gain) == pytest.approx((own_P.mean(), judge_P.mean()))
        assert row.gap == pytest.approx((own_P - judge_P).mean())
        own_most, judge_most = 2 / spread[name], 2 / spread["judge"]  # scores from -1 to 1
        for values_P, most, low, high in (
            (own_P, own_most, row.own_low, row.own_high),
            (judge_P, judge_most, row.judge_low, row.judge_high),
            (own_P - judge_P, own_most + judge_most, row.gap_low, row.gap_high),
        ):
            assert (low, high) == pytest.approx(bootstrap_interval(values_P, resamples, (-most, most)))
        is_fall = bootstrap_interval(judge_P, resamples, (-judge_most, judge_most), 1 - 0.05 / 2)[1] < 0
        assert row.turning_n == is_fall  # from n = 1; five prompts are too few
    text = Page((tmp_path / "report" / "index.html").read_text()).text
    assert text.count("best_of_n T=0.9, 3 seeds, N = 4") == 2


def test_a_seed_twice_is_refused(tmp_path):
    """Guards against a deviation between a seed and itself."""
    with pytest.raises(ValueError, match="Expected `more_seeds` distinct and without `seed`=0"):
        run(tmp_path, more_seeds=[1, 0])


# ------------------------------------------------------------------------------------------------------ disagreement


def test_an_ensembles_disagreement_is_in_the_tables(tmp_path):
    """Guards against a disagreement that is not stored, or mixes up prompts; the reference is scipy's z-scores."""
    members = [ToyVerifier("first", first_level), ToyVerifier("mean", mean_level)]
    panel = Panel([Ensemble(members)], [ToyVerifier("judge", mean_level)])
    store = CandidateStore(tmp_path / "candidates")
    prompts = [Prompt(f"p{place}", "some words") for place in range(4)]
    Sweep(ToyCodec(), BestOfN(6, 12), SamplingSettings(), panel, store, "m", 0, **FORMAT).run(prompts, ToySampler())
    sweep = Sweep(ToyCodec(), BestOfN(6, 12), SamplingSettings(), panel, store, "m", 0, **FORMAT)
    results = summarise([[sweep]], {"set": prompts}, num_resamples=100)
    expected, chosen = [], []
    for trace in results.traces("set"):
        heard = [one for one in trace.candidates if one.num_codes]
        audios = [(one.codes_S.float() / 16).repeat_interleave(16) for one in heard]
        scores_MN = np.array([[member.function(audio_T) for audio_T in audios] for member in members])
        disagreement_N = scipy.stats.zscore(scores_MN, axis=1).std(axis=0)
        found = [one.scores["ensemble disagreement"] for one in heard]
        assert found == pytest.approx(disagreement_N.tolist())
        expected += found
        best = max(heard, key=lambda one: one.scores["ensemble"])
        chosen.append(best.scores["ensemble disagreement"])
    (row,) = results.over_optimisation
    assert row.disagreement == pytest.approx(np.mean(expected))
    assert row.chosen_disagreement == pytest.approx(np.mean(chosen))
    write_candidates(results.swept, panel.columns, tmp_path)
    with (tmp_path / "candidates.csv").open() as stream:
        column = [one["ensemble disagreement"] for one in csv.DictReader(stream)]
    assert [float(cell) for cell in column if cell] == pytest.approx(expected)


def test_the_page_shows_the_members_disagreement_and_where_a_judge_turns(tmp_path):
    """Guards against a table that omits columns of the file: own score, gap, turning point, disagreement."""
    members = [PartialVerifier("first", first_level), PartialVerifier("level", lambda audio_T: float(audio_T[-1]))]
    callback, _, _ = run(
        tmp_path, algorithm=BestOfN(8, 40), more_algorithms=None, more_temperatures=None,
        more_selectors=[Ensemble(members)],
    )  # fmt: skip
    page = Page((tmp_path / "report" / "index.html").read_text())
    header, *cells = page.tables["over-optimisation"]
    rows = callback.results.over_optimisation
    assert len(cells) == len(rows) == 2
    assert {"own score", "judge's score", "gap", "judge falls after", "members disagree"} <= set(header)
    for shown, row in zip(cells, rows, strict=True):
        by_name = dict(zip(header, shown, strict=True))
        assert by_name["own score"] == f"{row.own_score:.3f}" and by_name["judge's score"] == f"{row.judge_score:.3f}"
        assert by_name["gap"].startswith(f"{row.gap:.3f}") and f"{row.gap_high:.3f}" in by_name["gap"]
        assert by_name["judge falls after"] == (f"N = {row.turning_n}" if row.turning_n else "–")
        shows = f"{row.disagreement:.3f}" if row.selector == "ensemble" else "–"
        assert by_name["members disagree"].startswith(shows)
