"""SweepResults: the results of a finished sweep as flat tables, and the files of its report that hold them."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from modules.api import Prompt
from modules.search.analysis.comparisons import Comparison
from modules.search.analysis.equal_compute import EqualCompute
from modules.search.analysis.expected_best_of_n import CurvePoint
from modules.search.analysis.overoptimisation import OverOptimisation
from modules.search.analysis.pitch_scores import PitchScore
from modules.search.panel import chosen_index
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
        values = ("score", "score_corpus", "flops", "seconds", "model", "shared_families")
        return cls(**{name: getattr(point, name) for name in names + values}, seed=seed)


@dataclass(frozen=True)
class SweptPrompt:
    """One prompt's candidates in one search of a sweep. `algorithm` is the search's label in tables; `model` is empty
    if the sweep has one model.

    `trace`: Candidates have their scores by verifier name (selectors and judges: always, NaN = could not be scored;
    final judges: only where they were used) and their cost. Their audio was dropped: decode `codes_S` again.
    `hypotheses`: (candidate index, verifier name) -> transcript; for the first candidate and the selected ones.
    """

    model: str
    algorithm: str
    temperature: float
    seed: int
    prompt_set: str
    trace: Trace
    hypotheses: dict[tuple[int, str], str] = field(default_factory=dict)

    @property
    def search(self) -> tuple[str, str, float]:
        """The columns that name the search, of any seed."""
        return self.model, self.algorithm, self.temperature


@dataclass(frozen=True)
class SweepResults:
    """Results of an inference-scaling sweep: flat tables over every model, algorithm, temperature and seed. Only rank 0
    has them; other ranks have None.

    Attributes:
        swept: The candidates of every search and seed, prompt by prompt: what candidates.parquet holds. All other
            tables are computed from it. The order is that of searches, seeds, prompt sets and prompts.
        points: All curves, in the order of curve.csv: `point.prompt_set`, `point.selector`, `point.judge`, `point.n`.
            Selectors are the verifiers' names, "random", "oracle (NAME)" and, on request, names that end in
            SELF_JUDGED: lines whose judge selected or steered. Final judges have n = 1 and N only. With several seeds:
            the means over them.
        description: Description of the run, for JSON: "date", "versions", "seed", "num_candidates", "algorithm",
            "sampling", "engine" (None: the model's own sampler), "model_hash", "codec_fingerprint", "num_prompts",
            "prompts_sha256" (of keys and texts), "machine", "seeds" and "models" (name to hash; where there are
            several), "num_score_failures" (of all searches and seeds), "most_flops_per_prompt", "searches" (for each
            the model, algorithm, sampling, seeds, ...; the top level has the first's), and "verifiers": a list of
            {"name", "roles" (of "selector", "self-judged selector", "judge", "final judge"), "model_hash", "families",
            "settings"}.
        comparisons: Paired differences between lines at equal n, in the order of comparisons.csv.
        over_optimisation: Each selector's own score compared with each independent judge's, with warnings.
        equal_compute: The other searches compared with best-of-n at the FLOPs that they spent, in the order of
            equal_compute.csv; requires a BestOfN among the algorithms.
        seed_scores: With several seeds: every point of each, as in seeds.csv.
        pitch_scores: Points whose judge predicts opinion scores, by the pitch of the voice, as in pitch.csv.
    """

    swept: list[SweptPrompt]
    points: list[CurvePoint]
    description: dict[str, Any] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    over_optimisation: list[OverOptimisation] = field(default_factory=list)
    equal_compute: list[EqualCompute] = field(default_factory=list)
    seed_scores: list[SeedScore] = field(default_factory=list)
    pitch_scores: list[PitchScore] = field(default_factory=list)

    @property
    def first_points(self) -> list[CurvePoint]:
        """The curves of the first search, which the figures show."""
        return [one for one in self.points if (one.model, one.algorithm, one.temperature) == self.swept[0].search]

    @property
    def first_swept(self) -> list[SweptPrompt]:
        """The prompts of the first search with its first seed."""
        first = self.swept[0]
        return [one for one in self.swept if (one.search, one.seed) == (first.search, first.seed)]

    def traces(self, prompt_set: str) -> list[Trace]:
        """The traces of one prompt set, of the first search and seed."""
        return [one.trace for one in self.first_swept if one.prompt_set == prompt_set]

    @property
    def selectors(self) -> list[str]:
        """The names of the verifiers that select, without judges that do so in the paper's protocol alone."""
        return [one["name"] for one in self.description["verifiers"] if "selector" in one["roles"]]


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
    "self_judged",
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
    prompts: dict[str, list[Prompt]] = {}
    for one in results.first_swept:
        prompts.setdefault(one.prompt_set, []).append(one.trace.prompt)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([*about, "prompt_key", "speaker", "score", "worst_score", "best_score", "shared_families"])
        for point in results.points:
            line = [getattr(point, name) for name in about]
            for prompt, score in zip(prompts[point.prompt_set], point.scores_P, strict=True):
                own = (prompt.key, prompt.speaker, float(score))
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


def nan_to_none(row: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN with None for strict JSON, which has no NaN."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


def write_summary(results: SweepResults, path: Path) -> None:
    """Write the description, the curves and, of the first search, the selected candidates and the hypotheses as strict
    JSON (NaN becomes null). Candidates are identified by their `index`, as in candidates.csv; in a search that discards
    candidates it differs from the position."""
    prompt_sets: dict[str, list[str]] = {}
    chosen: dict[str, dict[str, dict[str, int]]] = {}
    hypotheses = []
    for one in results.first_swept:
        key, candidates = one.trace.prompt.key, one.trace.candidates
        prompt_sets.setdefault(one.prompt_set, []).append(key)
        for selector in results.selectors:
            index = candidates[chosen_index(candidates, selector)].index
            chosen.setdefault(one.prompt_set, {}).setdefault(selector, {})[key] = index
        for (index, name), text in one.hypotheses.items():
            hypotheses.append({"prompt": key, "candidate": index, "verifier": name, "text": text})
    summary = {
        "description": results.description,
        "prompt_sets": prompt_sets,
        "points": [nan_to_none({name: getattr(one, name) for name in CURVE_COLUMNS}) for one in results.points],
        "equal_compute": [nan_to_none(asdict(row)) for row in results.equal_compute],
        "warnings": sorted({f"{row.selector}: {row.warning}" for row in results.over_optimisation if row.warning}),
        "chosen": {name: chosen.get(name, {}) for name in prompt_sets},
        "hypotheses": hypotheses,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
