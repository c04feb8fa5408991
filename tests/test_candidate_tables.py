"""The tables of candidates: CSV and Parquet."""

import csv
import math

import pyarrow.parquet
import pytest

from modules.search.candidate_tables import candidate_rows, write_candidates
from tests.search_toys import ToySampler, ToyVerifier, last_level_or_nan, toy_prompts
from tests.test_search_candidates import sweep_in


def test_the_export_holds_every_candidate(tmp_path):
    """Guards against a table that drops candidates without a score, swaps columns, or mixes up what was not asked with
    what could not be judged."""
    prompts = toy_prompts(3)
    sweep = sweep_in(tmp_path, judges=[ToyVerifier("judge", last_level_or_nan)])
    sweep.run(prompts, ToySampler())
    traces = [sweep.record(prompt).trace for prompt in prompts]
    del traces[0].candidates[0].scores["judge"]
    write_candidates(candidate_rows({"set": traces}, ["judge"], {"algorithm": "best_of_n"}), tmp_path)
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
        assert other["judge_flops"] == candidate.verifier_costs["judge"].verifier_flops == float(row["judge_flops"])
    for row, other, candidate in list(zip(rows, columnar, candidates, strict=True))[1:]:
        assert float(row["judge"]) == pytest.approx(candidate.scores["judge"], nan_ok=True)
        assert other["judge"] == pytest.approx(candidate.scores["judge"], nan_ok=True)
    assert rows[0]["judge"] == "" and columnar[0]["judge"] is None
    assert any(math.isnan(other["judge"]) for other in columnar[1:])
