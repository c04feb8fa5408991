"""The candidates of a sweep as tables: CSV to look at, Parquet, with the codes, to go on with."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from modules.api import Candidate
from modules.search.protocol import Trace

COSTS = ("lm_flops", "codec_flops", "verifier_flops", "seconds")


def candidate_rows(
    prompt_sets: Mapping[str, Sequence[Trace]], verifier_names: Sequence[str], about: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """A row for every candidate of a search, in the order of sets, prompts and candidates.

    `about`: columns that say the same in every row, such as the search that drew them. A score is None where the
    verifier was not asked, NaN where it could not judge. `lm_flops` to `seconds` are what the search spent on it;
    NAME_flops and NAME_seconds what it cost to have it heard by a verifier that did not steer the search.
    """
    for prompt_set, traces in prompt_sets.items():
        for trace in traces:
            prompt = trace.prompt
            for one in trace.candidates:
                yield {
                    **(about or {}),
                    "prompt_set": prompt_set,
                    "prompt_key": prompt.key,
                    "text": prompt.text,
                    "language": prompt.language,
                    "index": one.index,
                    "seed": one.seed,
                    "stopped": int(one.stopped),
                    "num_codes": one.num_codes,
                    "log_probability": one.log_probability,
                    **{name: one.scores.get(name) for name in verifier_names},
                    **{part: getattr(one.cost, part) for part in COSTS},
                    **_hearing(one, verifier_names),
                    "codes": one.codes_S.tolist(),
                }


def _hearing(candidate: Candidate, verifier_names: Sequence[str]) -> dict[str, float]:
    costs = {name: cost for name, cost in candidate.verifier_costs.items() if name in verifier_names}
    flops = {f"{name}_flops": cost.verifier_flops for name, cost in costs.items()}
    return flops | {f"{name}_seconds": cost.seconds for name, cost in costs.items()}


def write_candidates(rows: Iterable[dict[str, Any]], folder: Path) -> None:
    """candidates.csv, without the codes, and candidates.parquet. A column that a row lacks is empty there."""
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "codes"))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "candidates.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    table = {name: pyarrow.array([row.get(name) for row in rows]) for name in columns}
    table["codes"] = pyarrow.array([row["codes"] for row in rows], pyarrow.list_(pyarrow.int32()))
    pyarrow.parquet.write_table(pyarrow.table(table), folder / "candidates.parquet", compression="zstd")
