"""SweepResults: everything that a finished sweep knows, for reports and loggers."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modules.api import Candidate
from modules.search.estimators import CurvePoint
from modules.search.protocol import Trace


@dataclass(frozen=True)
class SweepResults:
    """What an inference-scaling sweep found. Only rank 0 holds one; others have None.

    Attributes:
        prompt_sets: Name of the prompt set (one per test dataloader, in its order) to the traces of its prompts.
            Candidates carry their scores by verifier name (selectors and judges: always there, NaN = could not judge;
            final judges: only where they were asked) and their cost. Their audio was dropped: decode `codes_S` again.
        points: All curves, in the order of curve.csv: `point.prompt_set`, `point.selector`, `point.judge`, `point.n`.
            Selectors are the verifiers' names, "random" and "oracle (NAME)". Final judges have n = 1 and N only.
        chosen: Prompt set -> selector name (the verifiers only) -> prompt key -> index into `trace.candidates` of the
            best of all N. The lowest index wins among ties.
        hypotheses: (prompt key, candidate index, verifier name) -> what that verifier understood; for the first
            candidate and the chosen ones, of verifiers that have a method `hypotheses(prompt, candidates)`.
        description: What was run, ready for JSON: "date", "versions", "seed", "num_candidates", "algorithm",
            "sampling", "model_hash", "codec_fingerprint", "num_prompts", "num_score_failures", and "verifiers": a list
            of {"name", "roles" (of "selector", "judge", "final judge"), "model_hash", "settings"}.
    """

    prompt_sets: dict[str, list[Trace]]
    points: list[CurvePoint]
    chosen: dict[str, dict[str, dict[str, int]]]
    hypotheses: dict[tuple[str, int, str], str] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)

    def chosen_candidate(self, prompt_set: str, selector: str, trace: Trace) -> Candidate:
        """The candidate that `selector` chose from all N of this trace's prompt."""
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
)


def write_curves(points: Sequence[CurvePoint], path: Path) -> None:
    """All points as CSV with the columns CURVE_COLUMNS; floats in full precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, CURVE_COLUMNS)
        writer.writeheader()
        writer.writerows(asdict(point) for point in points)


def write_summary(results: SweepResults, path: Path) -> None:
    """What was run, the curves, the chosen candidates and the hypotheses as strict JSON (NaN becomes null)."""
    points = [
        {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(point).items()
        }
        for point in results.points
    ]
    hypotheses = [
        {"prompt": key, "candidate": index, "verifier": name, "text": text}
        for (key, index, name), text in results.hypotheses.items()
    ]
    summary = {
        "description": results.description,
        "prompt_sets": {name: [trace.prompt.key for trace in traces] for name, traces in results.prompt_sets.items()},
        "points": points,
        "chosen": results.chosen,
        "hypotheses": hypotheses,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
