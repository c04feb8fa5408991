"""The order of rows: complete, the same for any number of ranks and workers, and exact after a resume."""

import json

import numpy as np
import pytest

from datamodules.shards.order import ResumableLoader, like_lengths_together, num_windows, window_samples
from datamodules.shards.shards import ShardIndex, ShardWriter
from datamodules.shards.skips import SkipNotes


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    with ShardWriter(folder, "tokens", {}, samples_per_shard=7) as writer:
        for number in range(50):
            writer.write(f"k{number}", {"json": json.dumps({}).encode()}, number + 1, "")
    return ShardIndex.load(folder, "tokens")


class Plan:
    """Rows are the samples themselves; a batch is the list of them."""

    def __init__(self, index, window_size=16, seed=3):
        self.index, self.window_size, self.seed = index, window_size, seed
        self.num_windows = num_windows(index, window_size)
        self.skipped = SkipNotes(str(index.folder), len(index))

    def rows(self, epoch, window):
        return window_samples(self.index, self.seed, epoch, window, self.window_size).tolist()

    def load(self, rows):
        return rows


def stream(index, num_batches, world_size=1, num_workers=0, start=None, rows_per_batch=4):
    """Batches of all ranks, merged to global batches, and the state after each."""
    loaders = [
        ResumableLoader(Plan(index), rows_per_batch // world_size, num_batches, rank, world_size, num_workers)
        for rank in range(world_size)
    ]
    for loader in loaders:
        if start:
            loader.load_state_dict(start)
    merged, states = [], []
    for parts in zip(*map(iter, loaders), strict=True):
        merged.append([row for group in zip(*parts, strict=True) for row in group])
        assert len({json.dumps(loader.state_dict()) for loader in loaders}) == 1
        states.append(loaders[0].state_dict())
    return merged, states


def test_an_epoch_holds_every_sample_once(index):
    """Guards against samples lost or repeated at the borders of shards and windows."""
    plan = Plan(index)
    orders = [[row for window in range(plan.num_windows) for row in plan.rows(epoch, window)] for epoch in (0, 1)]
    for order in orders:
        assert sorted(order) == list(range(50))
    assert orders[0] != orders[1]
    assert orders[0] == [row for window in range(plan.num_windows) for row in Plan(index).rows(0, window)]
    first = np.array(plan.rows(0, 0))
    assert len(set(index.shard_of[first].tolist())) >= 2, "a window must mix shards"


@pytest.mark.parametrize(("world_size", "num_workers"), [(2, 0), (4, 0), (1, 2), (2, 2)])
def test_ranks_and_workers_do_not_change_the_order(index, world_size, num_workers):
    assert stream(index, 20, world_size, num_workers)[0] == stream(index, 20)[0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_continues_with_the_next_batch(index, num_workers):
    """Guards against a skipped or repeated batch, also where workers have read ahead, and over an epoch's border."""
    whole, states = stream(index, 30)
    for cut in (1, 3, 4, 12, 13, 25):
        rest, _ = stream(index, 30 - cut, num_workers=num_workers, start=states[cut - 1])
        assert rest == whole[cut:]


def test_resume_with_another_number_of_ranks(index):
    whole, states = stream(index, 20, world_size=2)
    assert stream(index, 12, world_size=4, start=states[7])[0] == whole[8:]


def test_batches_of_like_lengths_are_spread_over_the_whole():
    """Guards against shards sorted by length, whose training windows would show the model one length at a time."""
    lengths = np.random.default_rng(0).integers(10, 200, 4000)
    batches = like_lengths_together(lengths, 32, seed=0)
    places = np.concatenate(batches)
    assert sorted(places.tolist()) == list(range(4000))
    used = sum(lengths[batch].sum() for batch in batches)
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    assert padded < 1.05 * used, "a batch must hold like lengths"
    for start in range(0, 4000, 500):
        part = lengths[places[start : start + 500]]
        assert abs(part.mean() - lengths.mean()) < 20 and part.std() > 0.7 * lengths.std()


def test_batches_are_bounded_by_their_padded_steps():
    """Guards against memory and time determined by the longest item (32 items of 8 s instead of 32 of 1 s), and against
    dropping an item longer than the bound."""
    lengths = np.append(np.random.default_rng(0).integers(10, 200, 999), 5000)
    batches = like_lengths_together(lengths, 32, seed=0, most_steps=1500)
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    padded = [lengths[batch].max() * len(batch) for batch in batches]
    assert all(len(batch) <= 32 for batch in batches)
    assert all(total <= 1500 for total, batch in zip(padded, batches, strict=True) if len(batch) > 1)
    assert [len(batch) for batch in batches if 999 in batch] == [1]
    assert np.mean(padded) > 0.8 * 1500, "batches must be full"
    assert sum(padded) < 1.1 * lengths.sum()
    means = [lengths[batch].mean() for batch in batches]
    assert np.abs(np.diff(means)).mean() > 30, "batches of like lengths must not follow each other"
