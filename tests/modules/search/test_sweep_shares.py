"""A sweep as a job array: several runs fill one store in parallel."""

import csv
from pathlib import Path

import pytest

from callbacks.inference_scaling import InferenceScaling
from tests.callbacks.test_inference_scaling import NUM_CANDIDATES, callback_in, run, timeless
from tests.toys.search_toys import ToySampler, toy_prompts

NUM_PROMPTS, NUM_SHARES = 11, 3


class Recorder(ToySampler):
    """Records the keys of the prompts that it has sampled for."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []

    def extend(self, branches, num_children, max_new_tokens, seeds):
        self.keys += [branch.prompt.key for branch in branches]
        return super().extend(branches, num_children, max_new_tokens, seeds)


def sweep(folder: Path, **share: int) -> tuple[InferenceScaling, Recorder]:
    prompts, sampler = toy_prompts(NUM_PROMPTS), Recorder()
    callback = callback_in(folder, **share)
    run(folder, {"short": prompts[:7], "long": prompts[7:]}, callback, sampler)
    return callback, sampler


def tables(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Rows of every table of a report, without timings."""
    found = {}
    for path in sorted((folder / "report").glob("*.csv")):
        with path.open() as stream:
            rows = list(csv.DictReader(stream))
        found[path.name] = [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]
    return found


def test_shares_are_disjoint_and_the_last_run_reports_what_a_single_one_does(tmp_path):
    """Guards against prompts that two tasks of an array sample, or none; a report of one share that looks like that of
    all; and a table that depends on how the work was divided."""
    single, sampler = sweep(tmp_path / "single")
    expected = sampler.keys
    assert len(expected) == len(set(expected)) == NUM_PROMPTS
    drawn = []
    for share in reversed(range(NUM_SHARES)):  # an array's tasks end in any order
        callback, sampler = sweep(tmp_path / "shared", share=share, num_shares=NUM_SHARES)
        assert callback.results is None and not (tmp_path / "shared/report").exists()
        assert len(sampler.keys) >= NUM_PROMPTS // NUM_SHARES
        drawn += sampler.keys
    assert sorted(drawn) == sorted(expected)
    merged, sampler = sweep(tmp_path / "shared")
    assert sampler.keys == []
    assert timeless(merged.results.points) == timeless(single.results.points)
    ours, theirs = tables(tmp_path / "shared"), tables(tmp_path / "single")
    assert ours == theirs and len(ours["candidates.csv"]) == NUM_PROMPTS * NUM_CANDIDATES


def test_a_share_that_is_missing_is_made_up_for(tmp_path):
    """Guards against a report without the prompts of an array task that failed."""
    _, first = sweep(tmp_path, share=0, num_shares=2)
    merged, rest = sweep(tmp_path)
    assert sorted(first.keys + rest.keys) == sorted(prompt.key for prompt in toy_prompts(NUM_PROMPTS))
    assert len(merged.results.swept) == NUM_PROMPTS


@pytest.mark.parametrize("share", [-1, 3])
def test_a_share_that_is_none_of_them_is_refused(tmp_path, share):
    """Guards against an array with other numbers than the sweep's, whose tasks sample nothing or another's prompts."""
    with pytest.raises(ValueError, match=f"one of `num_shares`=3 from 0, but got {share}"):
        callback_in(tmp_path, share=share, num_shares=3)
