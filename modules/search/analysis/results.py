"""SweepResults: the results of a finished sweep, for reports and loggers."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from modules.api import Candidate
from modules.search.analysis.comparisons import Comparison
from modules.search.analysis.equal_compute import EqualCompute
from modules.search.analysis.expected_best_of_n import CurvePoint
from modules.search.analysis.overoptimisation import OverOptimisation
from modules.search.protocol import Trace


@dataclass(frozen=True)
class SeedScore:
    """A point of one seed's curve: a row of seeds.csv."""

    prompt_set: str
    algorithm: str
    temperature: float
    selector: str
    judge: str
    n: int
    seed: int
    score: float
    score_corpus: float
    flops: float
    seconds: float
    model: str = ""
    shared_families: str = ""

    @classmethod
    def from_point(cls, point: CurvePoint, seed: int) -> "SeedScore":
        names = ("prompt_set", "algorithm", "temperature", "selector", "judge", "n")
        values = ("score", "score_corpus", "flops", "seconds", "shared_families")
        return cls(**{name: getattr(point, name) for name in names + values}, seed=seed)


@dataclass(frozen=True)
class SweepResults:
    """Results of an inference-scaling sweep. Only rank 0 has them; other ranks have None.

    Attributes:
        prompt_sets: Name of the prompt set (one per test dataloader, in its order) to the traces of its prompts.
            Candidates have their scores by verifier name (selectors and judges: always, NaN = could not be scored;
            final judges: only where they were used) and their cost. Their audio was dropped: decode `codes_S` again.
        points: All curves, in the order of curve.csv: `point.prompt_set`, `point.selector`, `point.judge`, `point.n`.
            Selectors are the verifiers' names, "random" and "oracle (NAME)". Final judges have n = 1 and N only.
        chosen: Prompt set -> selector name (the verifiers only) -> prompt key -> index into `trace.candidates` of the
            best of all N. The lowest index wins among ties.
        hypotheses: (prompt key, candidate index, verifier name) -> that verifier's transcript; for the first
            candidate and the selected ones, of verifiers that have a method `hypotheses(prompt, candidates)`.
        description: Description of the run, for JSON: "date", "versions", "seed", "num_candidates", "algorithm",
            "sampling", "engine" (None: the model's own sampler), "model_hash", "codec_fingerprint", "num_prompts",
            "prompts_sha256" (of keys and texts), "machine", "seeds" and "models" (name to hash; where there are
            several), "num_score_failures" (of all searches and seeds), "most_flops_per_prompt", "searches" (for each
            the model, algorithm, sampling, seeds, ...; the top level has the first's), and "verifiers": a list of
            {"name", "roles" (of "selector", "judge", "final judge"), "model_hash", "families", "settings"}.
        comparisons: Paired differences between lines at equal n, in the order of comparisons.csv, of
            `summary.combined`.
        over_optimisation: Each selector's own score compared with each independent judge's, with warnings.
        others: Results of the sweep's other models, algorithms and temperatures, on the same prompts; `comparisons` and
            `over_optimisation` cover all.
        equal_compute: The other searches compared with best-of-n at the FLOPs that they spent, in the order of
            equal_compute.csv; requires a BestOfN among the algorithms, before them.
        seed_scores: With several seeds: every point of each (`points` are their means), as in seeds.csv.
        other_seeds: The results of the seeds after the first; the first one's traces are in `prompt_sets`.
        every_n: `points` of the selectors at every n from 1 to N, for independent candidates.
    """

    prompt_sets: dict[str, list[Trace]]
    points: list[CurvePoint]
    chosen: dict[str, dict[str, dict[str, int]]]
    hypotheses: dict[tuple[str, int, str], str] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    over_optimisation: list[OverOptimisation] = field(default_factory=list)
    others: list["SweepResults"] = field(default_factory=list)
    equal_compute: list[EqualCompute] = field(default_factory=list)
    every_n: list[CurvePoint] = field(default_factory=list)
    seed_scores: list[SeedScore] = field(default_factory=list)
    other_seeds: list["SweepResults"] = field(default_factory=list)

    @property
    def all_points(self) -> list[CurvePoint]:
        """The curves of every model, algorithm and temperature."""
        return [*self.points, *(point for other in self.others for point in other.points)]

    def chosen_candidate(self, prompt_set: str, selector: str, trace: Trace) -> Candidate:
        """The candidate that `selector` selected from all N of this trace's prompt."""
        return trace.candidates[self.chosen[prompt_set][selector][trace.prompt.key]]


CURVE_COLUMNS = (
    "algorithm",
    "selector",
    "judge",
    "n",
    "score",
    "low",
    "high",
    "num_prompts",
    "prompt_set",
    "num_unjudged",
    "num_runaways",
    "score_judged_only",
    "flops",
    "temperature",
    "model",
    "gain",
    "gain_low",
    "gain_high",
    "score_corpus",
    "chosen_runaways",
    "num_speakers",
    "speaker_low",
    "speaker_high",
    "num_seeds",
    "seed_deviation",
    "shared_families",
    "holds_under_every_family",
    "seconds",
)


def write_curves(points: Sequence[CurvePoint], path: Path) -> None:
    """Write all points as CSV with the columns CURVE_COLUMNS; floats in full precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, CURVE_COLUMNS)
        writer.writeheader()
        writer.writerows({name: getattr(point, name) for name in CURVE_COLUMNS} for point in points)


def write_prompt_scores(results: SweepResults, path: Path) -> None:
    """Write the score of every prompt at every point, the basis of intervals and comparisons, as CSV."""
    about = ("prompt_set", "model", "algorithm", "temperature", "selector", "judge", "n")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([*about, "prompt_key", "speaker", "score", "worst_score", "best_score", "shared_families"])
        for point in results.all_points:
            line = [getattr(point, name) for name in about]
            for trace, score in zip(results.prompt_sets[point.prompt_set], point.scores_P, strict=True):
                own = (trace.prompt.key, trace.prompt.speaker, float(score))
                writer.writerow([*line, *own, *point.ends, point.shared_families])


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV with a header, every cell as text."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_rows(rows: Sequence[Any], kind: type, path: Path) -> None:
    """Write dataclass instances of one `kind` as CSV, one column per field shown in its repr; the header is written
    even without rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [one.name for one in fields(kind) if one.repr], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def chosen_indices(results: SweepResults) -> dict[str, dict[str, dict[str, int]]]:
    """`results.chosen` converted to the candidates' `index`."""
    return {
        prompt_set: {
            selector: {
                trace.prompt.key: results.chosen_candidate(prompt_set, selector, trace).index
                for trace in results.prompt_sets[prompt_set]
            }
            for selector in by_selector
        }
        for prompt_set, by_selector in results.chosen.items()
    }


def nan_to_none(row: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN with None for strict JSON, which has no NaN."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


def write_summary(results: SweepResults, path: Path) -> None:
    """Write the description, the curves, the selected candidates and the hypotheses as strict JSON (NaN becomes null).
    Candidates are identified by their `index`, as in candidates.csv; in a search that discards candidates it differs
    from the position."""
    points = [nan_to_none({name: getattr(point, name) for name in CURVE_COLUMNS}) for point in results.all_points]
    hypotheses = [
        {"prompt": key, "candidate": index, "verifier": name, "text": text}
        for (key, index, name), text in results.hypotheses.items()
    ]
    summary = {
        "description": results.description,
        "prompt_sets": {name: [trace.prompt.key for trace in traces] for name, traces in results.prompt_sets.items()},
        "points": points,
        "equal_compute": [nan_to_none(asdict(row)) for row in results.equal_compute],
        "warnings": sorted({f"{row.selector}: {row.warning}" for row in results.over_optimisation if row.warning}),
        "chosen": chosen_indices(results),
        "hypotheses": hypotheses,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
