"""The tables of candidates: CSV and Parquet."""

import csv
import math
import weakref
from collections.abc import Iterator

import pyarrow.parquet
import pytest

from modules.search.analysis.candidate_tables import CandidateTable, write_candidates
from tests.modules.search.test_candidate_store import sweep_in
from tests.toys.search_toys import ToySampler, ToyVerifier, last_level_or_nan, toy_prompts


def test_the_export_holds_every_candidate(tmp_path):
    """Guards against a table that drops candidates without a score, swaps columns, or confuses unrequested scores with
    NaN."""
    prompts = toy_prompts(3)
    sweep = sweep_in(tmp_path, judges=[ToyVerifier("judge", last_level_or_nan)])
    sweep.run(prompts, ToySampler())
    traces = [sweep.record(prompt).trace for prompt in prompts]
    del traces[0].candidates[0].scores["judge"]
    write_candidates(CandidateTable([({"set": traces}, {"algorithm": "best_of_n"})], ["judge"]), tmp_path)
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
    write_candidates(CandidateTable([({"set": traces}, {})], ["judge"]), tmp_path)
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


class WatchedTable(CandidateTable):
    """`most_alive`: largest number of rows in memory at one time."""

    most_alive = 0

    def __iter__(self) -> Iterator[Row]:
        alive: weakref.WeakSet[Row] = weakref.WeakSet()
        for row in super().__iter__():
            watched = Row(row)
            alive.add(watched)
            WatchedTable.most_alive = max(WatchedTable.most_alive, len(alive))
            yield watched


def test_rows_are_written_a_group_at_a_time(tmp_path):
    """Guards against a table whose rows are all in memory at once, and columns that first occur in a later group."""
    prompts = toy_prompts(3)
    sweep = sweep_in(tmp_path)
    sweep.run(prompts, ToySampler())
    traces = [sweep.record(prompt).trace for prompt in prompts]
    searches = [({"set": traces[:1]}, {"place": 1}), ({"set": traces[1:]}, {"place": 1.5, "late": "column"})]
    for one in traces[0].candidates:
        one.scores, one.verifier_costs = {}, {}
    write_candidates(WatchedTable(searches, ["judge"]), tmp_path, rows_per_group=3)
    assert 3 <= WatchedTable.most_alive <= 6  # the group being written, and the next
    assert pyarrow.parquet.ParquetFile(tmp_path / "candidates.parquet").num_row_groups == 4
    columnar = pyarrow.parquet.read_table(tmp_path / "candidates.parquet").to_pylist()
    with (tmp_path / "candidates.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    candidates = [one for trace in traces for one in trace.candidates]
    assert [other["codes"] for other in columnar] == [one.codes_S.tolist() for one in candidates]
    assert [other["place"] for other in columnar] == [1.0] * 4 + [1.5] * 8
    assert [other["late"] for other in columnar] == [None] * 4 + ["column"] * 8
    assert [row["late"] for row in rows] == [""] * 4 + ["column"] * 8
    late = [one.verifier_costs["judge"].verifier_flops for one in candidates[4:]]
    assert [other["judge_flops"] for other in columnar] == [None] * 4 + late
    assert [float(row["judge_flops"]) for row in rows[4:]] == late
