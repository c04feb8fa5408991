"""The candidates of a sweep as tables: CSV to look at, Parquet, with the codes, to go on with."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch

from modules.api import Candidate
from modules.search.protocol import Trace

COSTS = ("lm_flops", "prompt_flops", "codec_flops", "verifier_flops", "seconds")
ROWS_PER_GROUP = 4096


def candidate_rows(
    prompt_sets: Mapping[str, Sequence[Trace]], verifier_names: Sequence[str], about: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """A row for every candidate of a search, in the order of sets, prompts and candidates.

    `about`: columns that say the same in every row, such as the search that drew them. A score is None where the
    verifier was not asked, NaN where it could not judge. `lm_flops` to `seconds` are what the search spent on it;
    NAME_flops and NAME_seconds what it cost to have it heard by a verifier that did not steer the search. Those of
    `lm_flops` that read the prompt are `prompt_flops`. Candidates of a prompt share them: a sum must not repeat them.
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
                    "codes": one.codes_S.to("cpu", torch.int32).numpy(),
                }


def _hearing(candidate: Candidate, verifier_names: Sequence[str]) -> dict[str, float]:
    costs = {name: cost for name, cost in candidate.verifier_costs.items() if name in verifier_names}
    flops = {f"{name}_flops": cost.verifier_flops for name, cost in costs.items()}
    return flops | {f"{name}_seconds": cost.seconds for name, cost in costs.items()}


@dataclass(frozen=True)
class CandidateTable:
    """The rows of several searches, made anew at every iteration: they take no memory beside the candidates.

    Each search: its traces by prompt set, and what `candidate_rows` is to say about it.
    """

    searches: Sequence[tuple[Mapping[str, Sequence[Trace]], Mapping[str, Any]]]
    verifier_names: Sequence[str]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for prompt_sets, about in self.searches:
            yield from candidate_rows(prompt_sets, self.verifier_names, about)


def write_candidates(table: CandidateTable, folder: Path, rows_per_group: int = ROWS_PER_GROUP) -> None:
    """candidates.csv, without the codes, and candidates.parquet. A column that a row lacks is empty there.

    The rows are made twice, for the columns and for what stands in them, and held `rows_per_group` at a time.
    """
    schema = _schema(table)
    columns = [name for name in schema.names if name != "codes"]
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "candidates.csv").open("w", newline="", encoding="utf-8") as stream,
        pyarrow.parquet.ParquetWriter(folder / "candidates.parquet", schema, compression="zstd") as parquet,
    ):
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        rows = iter(table)
        while group := list(islice(rows, rows_per_group)):
            writer.writerows(group)
            cells = [pyarrow.array([row.get(name) for row in group], schema.field(name).type) for name in schema.names]
            parquet.write_table(pyarrow.Table.from_arrays(cells, schema=schema))


def _schema(rows: Iterable[dict[str, Any]]) -> pyarrow.Schema:
    """Every column of any row, the codes last, with the type that holds all that stands in it."""
    found: dict[str, dict[type, Any]] = {}  # one value of each type
    for row in rows:
        for name, value in row.items():
            own = found.setdefault(name, {})
            if value is not None:
                own[type(value)] = value
    found.pop("codes", None)
    columns = [(name, pyarrow.array(list(values.values())).type) for name, values in found.items()]
    return pyarrow.schema([*columns, ("codes", pyarrow.list_(pyarrow.int32()))])
