"""The tables of candidates: CSV and Parquet."""

import csv
import math
import weakref
from collections.abc import Iterator

import pyarrow.parquet
import pytest

from modules.search.analysis import candidate_tables
from modules.search.analysis.candidate_tables import candidate_rows, write_candidates
from modules.search.analysis.results import SweptPrompt
from modules.search.protocol import Trace
from tests.modules.search.test_candidate_store import sweep_in
from tests.toys.search_toys import ToySampler, ToyVerifier, last_level_or_nan, toy_prompts


def swept(traces: list[Trace], temperature: float = 1.0) -> list[SweptPrompt]:
    return [SweptPrompt("", "best_of_n", temperature, 0, "set", trace) for trace in traces]


def test_the_export_holds_every_candidate(tmp_path):
    """Guards against a table that drops candidates without a score, swaps columns, or confuses unrequested scores with
    NaN."""
    prompts = toy_prompts(3)
    sweep = sweep_in(tmp_path, judges=[ToyVerifier("judge", last_level_or_nan)])
    sweep.run(prompts, ToySampler())
    traces = [sweep.record(prompt).trace for prompt in prompts]
    del traces[0].candidates[0].scores["judge"]
    write_candidates(swept(traces), ["judge"], tmp_path)
    with (tmp_path / "candidates.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    candidates = [candidate for trace in traces for candidate in trace.candidates]
    columnar = pyarrow.parquet.read_table(tmp_path / "candidates.parquet").to_pylist()
    assert len(rows) == len(columnar) == len(candidates) == 12
    for row, other, candidate in zip(rows, columnar, candidates, strict=True):
        assert (row["prompt_key"], int(row["index"])) == (candidate.prompt_key, candidate.index)
        assert (other["prompt_key"], other["seed"]) == (row["prompt_key"], candidate.seed)
        assert other["codes"] == candidate.codes_S.tolist() and row["algorithm"] == "best_of_n"
        assert float(row["lm_flops"]) == other["lm_flops"] == candidate.cost.lm_flops
        assert float(row["prompt_flops"]) == other["prompt_flops"] == candidate.cost.prompt_flops > 0
        assert other["judge_flops"] == candidate.verifier_costs["judge"].verifier_flops == float(row["judge_flops"])
    for row, other, candidate in list(zip(rows, columnar, candidates, strict=True))[1:]:
        assert float(row["judge"]) == pytest.approx(candidate.scores["judge"], nan_ok=True)
        assert other["judge"] == pytest.approx(candidate.scores["judge"], nan_ok=True)
    assert rows[0]["judge"] == "" and columnar[0]["judge"] is None
    assert any(math.isnan(other["judge"]) for other in columnar[1:])


def test_a_sum_over_the_table_is_what_the_search_spent(tmp_path):
    """Guards against counting the prompt's FLOPs once per candidate."""
    prompts = toy_prompts(3)
    sweep = sweep_in(tmp_path)
    sweep.run(prompts, ToySampler())
    traces = [sweep.record(prompt).trace for prompt in prompts]
    write_candidates(swept(traces), ["judge"], tmp_path)
    with (tmp_path / "candidates.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for trace in traces:
        own = [row for row in rows if row["prompt_key"] == trace.prompt.key]
        drawn = sum(float(row["lm_flops"]) - float(row["prompt_flops"]) for row in own)
        assert drawn + float(own[0]["prompt_flops"]) == pytest.approx(trace.cost.lm_flops)
        assert len(own) > 1 and float(own[0]["prompt_flops"]) > 0


class Row(dict):
    """A row that supports weak references."""

    __hash__ = object.__hash__


def test_rows_are_written_a_group_at_a_time(tmp_path, monkeypatch):
    """Guards against a table whose rows are all in memory at once, and columns that only a later group fills."""
    prompts = toy_prompts(3)
    sweep = sweep_in(tmp_path)
    sweep.run(prompts, ToySampler())
    traces = [sweep.record(prompt).trace for prompt in prompts]
    rows_of_two_searches = [*swept(traces[:1], 1), *swept(traces[1:], 1.5)]
    for one in traces[0].candidates:
        one.scores, one.verifier_costs = {}, {}
    alive: weakref.WeakSet[Row] = weakref.WeakSet()
    num_alive = []

    def watched(*about) -> Iterator[Row]:
        for row in candidate_rows(*about):
            alive.add(watched := Row(row))
            num_alive.append(len(alive))
            yield watched

    monkeypatch.setattr(candidate_tables, "candidate_rows", watched)
    write_candidates(rows_of_two_searches, ["judge"], tmp_path, rows_per_group=3)
    assert 3 <= max(num_alive) <= 6  # the group that is written, and the next
    assert pyarrow.parquet.ParquetFile(tmp_path / "candidates.parquet").num_row_groups == 4
    columnar = pyarrow.parquet.read_table(tmp_path / "candidates.parquet").to_pylist()
    with (tmp_path / "candidates.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    candidates = [one for trace in traces for one in trace.candidates]
    assert [other["codes"] for other in columnar] == [one.codes_S.tolist() for one in candidates]
    assert [other["temperature"] for other in columnar] == [1.0] * 4 + [1.5] * 8
    late = [one.verifier_costs["judge"].verifier_flops for one in candidates[4:]]
    assert [other["judge_flops"] for other in columnar] == [None] * 4 + late
    assert [float(row["judge_flops"]) for row in rows[4:]] == late
