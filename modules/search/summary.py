"""Conversion of the stored records of a sweep's searches to SweepResults: flat tables and a description of the run."""

import datetime
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from modules.api import Prompt, disagreement_name
from modules.pitch import predicts_opinions
from modules.provenance import digest, package_versions, plain
from modules.search.analysis.comparisons import compare
from modules.search.analysis.curves import CurveCalculator
from modules.search.analysis.equal_compute import at_equal_compute
from modules.search.analysis.families import families_of, with_verdicts
from modules.search.analysis.overoptimisation import over_optimisation
from modules.search.analysis.pitch_scores import pitch_scores
from modules.search.analysis.results import SeedScore, SweepResults, SweptPrompt
from modules.search.analysis.seeds import averaged
from modules.search.candidate_store import CandidateRecord
from modules.search.panel import Panel, chosen_index, silent_trace
from modules.search.protocol import SearchAlgorithm
from modules.search.sweep import Sweep


def summarise(
    searches: Sequence[Sequence[Sweep]],
    prompt_sets: Mapping[str, Sequence[Prompt]],
    seed: int = 0,
    num_resamples: int = 2000,
) -> SweepResults:
    """The results of completely stored sweeps.

    Args:
        searches: For every model, temperature and algorithm the sweeps of all seeds, with one panel.
        prompt_sets: The prompts by set.
        seed: Seed of the bootstrap.
        num_resamples: Number of bootstrap resamples.
    """
    panel, drawn = searches[0][0].panel, (seed, num_resamples)
    opinion_judges = [one.facts.name for one in (*panel.judges, *panel.final_judges) if predicts_opinions(one)]
    swept, points, warned, scores, facts = [], [], [], [], []
    samples, every_n, others = [], [], []  # points of best-of-n, its points at every n, and points of other searches
    for label, sweeps in zip(distinct_labels([own[0].algorithm for own in searches]), searches, strict=True):
        # 1. The candidates of every seed, and their curves.
        by_seed = [swept_prompts(sweep, label, prompt_sets) for sweep in sweeps]
        curves, finer = [], []
        for sweep, own in zip(sweeps, by_seed, strict=True):
            calculators = [_calculator(sweep, name, own, num_resamples) for name in prompt_sets]
            names = {"algorithm": label, "model": sweep.model_name}
            curves.append([replace(point, **names) for one in calculators for point in one.points()])
            finer.append([replace(point, **names) for one in calculators for point in one.every_n()])
        # 2. Their means over the seeds.
        mean = averaged(curves, *drawn)
        is_sampling = sweeps[0].algorithm.name == "best_of_n"
        samples += mean if is_sampling else []
        every_n += averaged(finer, *drawn) if is_sampling else []
        others += [] if is_sampling else mean
        for name in prompt_sets:
            traces = [[one.trace for one in own if one.prompt_set == name] for own in by_seed]
            warned += over_optimisation([one for one in mean if one.prompt_set == name], traces, panel, *drawn)
        if len(sweeps) > 1:
            own = zip(sweeps, curves, strict=True)
            scores += [SeedScore.from_point(point, sweep.seed) for sweep, curve in own for point in curve]
        # 3. Everything into flat tables.
        points += mean
        swept += [one for own in by_seed for one in own]
        facts.append(search_facts(sweeps, label, by_seed))
    points = with_verdicts(points, samples, *drawn)
    return SweepResults(
        swept=swept,
        points=points,
        description=describe(searches[0][0], prompt_sets, facts),
        comparisons=compare(points, *drawn),
        over_optimisation=warned,
        equal_compute=at_equal_compute(others, every_n, *drawn),
        seed_scores=scores,
        pitch_scores=pitch_scores(points, prompt_sets, opinion_judges),
    )


def swept_prompts(sweep: Sweep, label: str, prompt_sets: Mapping[str, Sequence[Prompt]]) -> list[SweptPrompt]:
    """The stored candidates of one sweep, by prompt set and prompt."""
    about = (sweep.model_name, label, sweep.sampling.temperature, sweep.seed)
    swept = []
    for prompt_set, prompts in prompt_sets.items():
        for prompt in prompts:
            record = of_panel(sweep.record(prompt), sweep.panel)
            swept.append(SweptPrompt(*about, prompt_set, record.trace, record.hypotheses))
    return swept


def _calculator(sweep: Sweep, prompt_set: str, swept: Sequence[SweptPrompt], num_resamples: int) -> CurveCalculator:
    traces = [one.trace for one in swept if one.prompt_set == prompt_set]
    how = (sweep.panel, sweep.seed, num_resamples, sweep.sampling.temperature)
    return CurveCalculator(prompt_set, sweep.algorithm, traces, *how)


def of_panel(record: CandidateRecord, panel: Panel) -> CandidateRecord:
    """A copy of the record without audio, with this panel's scores only; final-judge scores and transcripts only for
    candidate 0 and the selected ones. The store also has those for selections of other, earlier selectors."""
    trace = silent_trace(record.trace, panel.columns)
    kept = {0} | {chosen_index(trace.candidates, selector.facts.name) for selector in panel.selectors}
    final_only = {one.facts.name for one in panel.final_judges} - {one.facts.name for one in panel.for_all}
    final_only |= {disagreement_name(name) for name in final_only}
    for place, candidate in enumerate(trace.candidates):
        for name in () if place in kept else final_only:
            candidate.scores.pop(name, None)
            candidate.verifier_costs.pop(name, None)
    transcribed = {(trace.candidates[place].index, name) for place in kept for name in panel.columns}
    hypotheses = {key: text for key, text in record.hypotheses.items() if key in transcribed}
    return CandidateRecord(trace, record.score_identities, hypotheses)


def distinct_labels(algorithms: Sequence[SearchAlgorithm]) -> list[str]:
    """The searches' names, with the settings in which those of one name differ: "process_beam num_beams=4"."""
    searches = [{"name": one.name} | plain(one) for one in algorithms]
    labels = []
    for search in searches:
        namesakes = [other for other in searches if other["name"] == search["name"]]
        own = [key for key, value in search.items() if any(other.get(key) != value for other in namesakes)]
        labels.append(" ".join([search["name"], *(f"{key}={search[key]}" for key in own)]))
    return labels


def search_facts(sweeps: Sequence[Sweep], label: str, by_seed: Sequence[Sequence[SweptPrompt]]) -> dict[str, Any]:
    """Description of one search of a sweep, JSON serialisable. `num_candidates`: the largest number for a prompt of the
    first set; `num_score_failures`: of all seeds."""
    sweep, first = sweeps[0], by_seed[0][0]
    candidates = [one for own in by_seed for swept in own for one in swept.trace.candidates]
    is_known = sweep.most_flops is not None and not math.isnan(sweep.most_flops)
    return ({"model": sweep.model_name} if sweep.model_name else {}) | {
        "model_hash": sweep.model_hash,
        "algorithm": {"name": sweep.algorithm.name} | plain(sweep.algorithm) | {"name": label},
        "sampling": sweep.sampling.stored(),
        "seeds": [one.seed for one in sweeps],
        "num_candidates": max(len(one.trace.candidates) for one in by_seed[0] if one.prompt_set == first.prompt_set),
        "most_flops_per_prompt": sweep.most_flops if is_known else None,
        "num_score_failures": sum(len(one.failed & set(one.scores)) for one in candidates),
    }


def describe(
    sweep: Sweep, prompt_sets: Mapping[str, Sequence[Prompt]], searches: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Description of the run, JSON serialisable (see SweepResults), with the facts of the first of its `searches`."""
    first = dict(searches[0])
    seeds = {"seeds": own} if len(own := first.pop("seeds")) > 1 else {}
    models = {one["model"]: one["model_hash"] for one in searches if "model" in one}
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | package_versions(),
        "seed": sweep.seed,
        "engine": sweep.engine and sweep.engine.identity(),
        "codec_fingerprint": sweep.codec.fingerprint,
        "machine": {"processor": platform.processor() or platform.machine(), "num_threads": torch.get_num_threads()},
        "prompts_sha256": {
            name: digest([[prompt.key, prompt.text, prompt.language, prompt.speaker] for prompt in prompts])
            for name, prompts in prompt_sets.items()
        },
        "num_prompts": {name: len(prompts) for name, prompts in prompt_sets.items()},
        **first,
        **seeds,
        "num_score_failures": sum(one["num_score_failures"] for one in searches),
        "searches": list(searches),
        **({"models": models} if models else {}),
        "verifiers": [
            {
                "name": verifier.facts.name,
                "roles": sweep.panel.roles(verifier.facts.name),
                "model_hash": verifier.facts.model_hash,
                "families": sorted(families_of(verifier)),
                "settings": plain(verifier.facts.settings),
            }
            for verifier in sweep.panel.everyone
        ],
    }
