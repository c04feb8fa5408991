"""Conversion of a sweep's stored records to SweepResults: curves, selections, and the description of the run."""

import datetime
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from modules.api import Prompt, disagreement_name
from modules.provenance import digest, package_versions, plain
from modules.search.analysis.comparisons import compare
from modules.search.analysis.curves import CurveCalculator
from modules.search.analysis.equal_compute import at_equal_compute
from modules.search.analysis.families import families_of, with_verdicts
from modules.search.analysis.overoptimisation import over_optimisation
from modules.search.analysis.results import SweepResults
from modules.search.candidate_store import CandidateRecord
from modules.search.panel import Panel, chosen_index, silent_trace
from modules.search.sweep import Sweep

# Keys of the description that may differ between the searches of one sweep.
SEARCH_FACTS = (
    "model", "model_hash", "algorithm", "sampling", "seeds", "num_candidates", "most_flops_per_prompt",
    "num_score_failures",
)  # fmt: skip


def summarise(sweep: Sweep, prompt_sets: dict[str, Sequence[Prompt]], num_resamples: int = 2000) -> SweepResults:
    """The results of a completely stored sweep; comparisons are made by `combined`. The sweep's seed also seeds the
    bootstrap."""
    traces, points, every_n, chosen, hypotheses, over_optimised = {}, [], [], {}, {}, []
    for prompt_set, prompts in prompt_sets.items():
        records = [of_panel(sweep.record(prompt), sweep.panel) for prompt in prompts]
        traces[prompt_set] = [record.trace for record in records]
        calculator = CurveCalculator(
            prompt_set,
            sweep.algorithm,
            traces[prompt_set],
            sweep.panel,
            sweep.seed,
            num_resamples,
            sweep.sampling.temperature,
        )
        own = calculator.points()
        points += own
        every_n += calculator.every_n()
        over_optimised += over_optimisation(own, [traces[prompt_set]], sweep.panel, sweep.seed, num_resamples)
        chosen[prompt_set] = {
            selector.facts.name: {
                trace.prompt.key: chosen_index(trace.candidates, selector.facts.name) for trace in traces[prompt_set]
            }
            for selector in sweep.panel.selectors
        }
        for record in records:
            for (index, name), text in record.hypotheses.items():
                hypotheses[record.trace.prompt.key, index, name] = text
    num_candidates = max(len(trace.candidates) for trace in next(iter(traces.values())))
    description = describe(sweep, prompt_sets, num_candidates)
    candidates = [one for own in traces.values() for trace in own for one in trace.candidates]
    description["num_score_failures"] = sum(len(one.failed & set(one.scores)) for one in candidates)
    warned = {"over_optimisation": over_optimised, "every_n": every_n}
    return SweepResults(traces, points, chosen, hypotheses, description, **warned)


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


def combined(results: Sequence[SweepResults], seed: int, num_resamples: int = 2000) -> SweepResults:
    """The first results with the others attached, comparisons of all lines, and comparisons of searches with best-of-n
    at equal compute."""
    results = _with_verdicts(results, seed, num_resamples)
    if len(results) == 1:
        description = results[0].description | {"searches": [search_facts(results[0])]}
        compared = compare(results[0].points, seed, num_resamples)
        return replace(results[0], comparisons=compared, description=description)
    named = with_distinct_names(results)
    warned = [row for one in named for row in one.over_optimisation]
    together = replace(named[0], others=named[1:], over_optimisation=warned)
    compared = compare(together.all_points, seed, num_resamples)
    is_sampling = [_is_sampling(one) for one in results]
    others = [point for one, samples in zip(named, is_sampling, strict=True) if not samples for point in one.points]
    baseline = [point for one, samples in zip(named, is_sampling, strict=True) if samples for point in one.every_n]
    beside = at_equal_compute(others, baseline, seed, num_resamples)
    models = {one.description["model"]: one.description["model_hash"] for one in named if "model" in one.description}
    searches = [search_facts(one) for one in named]
    num_failures = sum(one["num_score_failures"] for one in searches)
    description = named[0].description | {"searches": searches, "num_score_failures": num_failures}
    description |= {"models": models} if models else {}
    return replace(together, comparisons=compared, equal_compute=beside, description=description)


def _is_sampling(results: SweepResults) -> bool:
    return results.description["algorithm"]["name"] == "best_of_n"


def _with_verdicts(results: Sequence[SweepResults], seed: int, num_resamples: int) -> list[SweepResults]:
    """The results with `holds_under_every_family` set at every selector's points (analysis/families.py)."""
    samples = [point for one in results if _is_sampling(one) for point in one.points]
    return [replace(one, points=with_verdicts(one.points, samples, seed, num_resamples)) for one in results]


def search_facts(results: SweepResults) -> dict[str, Any]:
    """Description of one search of a sweep, for the list of all searches."""
    about = {"seeds": [results.description["seed"]]} | results.description
    return {name: about[name] for name in SEARCH_FACTS if name in about}


def with_distinct_names(results: Sequence[SweepResults]) -> list[SweepResults]:
    """Append to names shared by several searches the settings in which they differ: "process_beam num_beams=4"."""
    searches = [one.description["algorithm"] for one in results]
    named = []
    for one, search in zip(results, searches, strict=True):
        namesakes = [other for other in searches if other["name"] == search["name"]]
        own = [key for key, value in search.items() if any(other.get(key) != value for other in namesakes)]
        name = " ".join([search["name"], *(f"{key}={search[key]}" for key in own)])
        named.append(_relabelled(one, {"algorithm": name}, {"algorithm": search | {"name": name}}))
    return named


def of_model(results: SweepResults, name: str) -> SweepResults:
    """The results labelled as those of model `name`, one of several."""
    return _relabelled(results, {"model": name}, {"model": name})


def _relabelled(results: SweepResults, labels: dict[str, str], description: dict[str, Any]) -> SweepResults:
    """A copy with other labels in every row of its tables, and in its description."""
    tables = {
        table: [replace(row, **labels) for row in getattr(results, table)]
        for table in ("points", "every_n", "over_optimisation", "seed_scores")
    }
    return replace(
        results,
        **tables,
        description=results.description | description,
        other_seeds=[_relabelled(one, labels, description) for one in results.other_seeds],
    )


def describe(sweep: Sweep, prompt_sets: dict[str, Sequence[Prompt]], num_candidates: int) -> dict[str, Any]:
    """Description of the run, JSON serialisable (see SweepResults)."""
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | package_versions(),
        "seed": sweep.seed,
        "num_candidates": num_candidates,
        "algorithm": {"name": sweep.algorithm.name} | plain(sweep.algorithm),
        "sampling": asdict(sweep.sampling),
        "engine": sweep.engine and sweep.engine.identity(),
        "model_hash": sweep.model_hash,
        "codec_fingerprint": sweep.codec.fingerprint,
        "machine": {"processor": platform.processor() or platform.machine(), "num_threads": torch.get_num_threads()},
        "prompts_sha256": {
            name: digest([[prompt.key, prompt.text, prompt.language, prompt.speaker] for prompt in prompts])
            for name, prompts in prompt_sets.items()
        },
        "num_prompts": {name: len(prompts) for name, prompts in prompt_sets.items()},
        "most_flops_per_prompt": None if sweep.most_flops is None or math.isnan(sweep.most_flops) else sweep.most_flops,
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
