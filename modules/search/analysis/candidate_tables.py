"""Tables of a sweep's candidates: CSV for reading, Parquet with the codes for further processing."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch

from modules.api import Candidate
from modules.search.analysis.results import SweptPrompt

COSTS = ("lm_flops", "prompt_flops", "codec_flops", "verifier_flops", "seconds")
ROWS_PER_GROUP = 4096


def candidate_rows(swept: Iterable[SweptPrompt], verifier_names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One row per candidate of every search, in their order.

    A score is None if the verifier did not score the candidate, NaN if it could not. `lm_flops` to `seconds` are the
    search's cost of the candidate; NAME_flops and NAME_seconds the cost of a verifier that did not steer the search.
    `prompt_flops` is the part of `lm_flops` spent on the prompt. Candidates of a prompt share it: a sum must count it
    once.
    """
    for own in swept:
        prompt = own.trace.prompt
        for one in own.trace.candidates:
            yield {
                "algorithm": own.algorithm,
                "temperature": own.temperature,
                "sweep_seed": own.seed,
                "model": own.model,
                "prompt_set": own.prompt_set,
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


def write_candidates(
    swept: Sequence[SweptPrompt], verifier_names: Sequence[str], folder: Path, rows_per_group: int = ROWS_PER_GROUP
) -> None:
    """Write candidates.csv, without the codes, and candidates.parquet. Columns that a row lacks are empty.

    The rows are generated twice, for the schema and for the values, and `rows_per_group` are in memory at a time.
    """
    schema = _schema(candidate_rows(swept, verifier_names))
    columns = [name for name in schema.names if name != "codes"]
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "candidates.csv").open("w", newline="", encoding="utf-8") as stream,
        pyarrow.parquet.ParquetWriter(folder / "candidates.parquet", schema, compression="zstd") as parquet,
    ):
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        rows = candidate_rows(swept, verifier_names)
        while group := list(islice(rows, rows_per_group)):
            writer.writerows(group)
            cells = [pyarrow.array([row.get(name) for row in group], schema.field(name).type) for name in schema.names]
            parquet.write_table(pyarrow.Table.from_arrays(cells, schema=schema))


def _schema(rows: Iterable[dict[str, Any]]) -> pyarrow.Schema:
    """Schema with the columns of all rows, the codes last, each with a type that fits all its values."""
    found: dict[str, dict[type, Any]] = {}  # one value of each type
    for row in rows:
        for name, value in row.items():
            own = found.setdefault(name, {})
            if value is not None:
                own[type(value)] = value
    found.pop("codes", None)
    columns = [(name, pyarrow.array(list(values.values())).type) for name, values in found.items()]
    return pyarrow.schema([*columns, ("codes", pyarrow.list_(pyarrow.int32()))])
