"""The order of rows, and a loader that can resume at any position in it.

The global order is a pure function of (seed, epoch): shards are permuted, then cut into windows of a fixed number of
samples, and samples are permuted within their window. Ranks take strides of the rows. The position (epoch, window, row)
is the whole resume state: it counts rows over all ranks, so it is valid for any number of ranks and workers.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.shards.shards import ShardIndex
from datamodules.shards.skips import Skip, SkipCount, SkipNotes, TooManySkipped


class RowPlan(Protocol):
    """Rows by window, planned from the index alone, and their reading."""

    num_windows: int
    skipped: SkipNotes

    def rows(self, epoch: int, window: int) -> list[Any]:
        """Return what each row of the window consists of; a pure function."""
        ...

    def load(self, rows: list[Any]) -> Any:
        """Read the rows and collate them to one batch; None if an evaluation cannot use any of them."""
        ...


class Sharded(Protocol):
    """Samples stored consecutively in shards: a ShardIndex, or a subset of one."""

    @property
    def shard_counts(self) -> np.ndarray:
        """Number of samples of each shard."""
        ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class SomeSamples:
    """The samples `rows` of an index, ascending; a sample number is a position among them."""

    index: ShardIndex
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def shard_counts(self) -> np.ndarray:
        return np.bincount(self.index.shard_of[self.rows], minlength=len(self.index.shards))


def num_windows(index: Sharded, window_size: int) -> int:
    return -(-len(index) // window_size)


def window_samples(index: Sharded, seed: int, epoch: int, window: int, window_size: int) -> np.ndarray:
    """Return the sample numbers of one window in the order of (seed, epoch)."""
    counts = index.shard_counts
    starts = np.cumsum(counts) - counts
    order = np.random.default_rng([seed, epoch]).permutation(len(counts))
    ends = np.cumsum(counts[order])
    places = np.arange(window * window_size, min((window + 1) * window_size, len(index)))
    slot = np.searchsorted(ends, places, side="right")
    samples = starts[order[slot]] + places - (ends[slot] - counts[order[slot]])
    return np.random.default_rng([seed, epoch, window]).permutation(samples)


def stream_samples(index: Sharded, seed: int, start: int, stop: int, window_size: int) -> np.ndarray:
    """Return positions `start` to `stop` of the endless stream of samples, in the order of `window_samples` epoch by
    epoch."""
    pieces = [np.empty(0, dtype=np.int64)]
    while start < stop:
        epoch, place = divmod(start, len(index))
        window, first = divmod(place, window_size)
        pieces.append(window_samples(index, seed, epoch, window, window_size)[first : first + stop - start])
        start += len(pieces[-1])
    return np.concatenate(pieces)


class Loaded(NamedTuple):
    """Message of a worker: a batch, the samples skipped for it, and an error that ends reading."""

    batch: Any
    skips: list[Skip]
    error: TooManySkipped | None = None


class PlannedBatches(Dataset):
    """Dataset for torch's DataLoader: a key is the list of rows of one batch.

    `skipped` counts the samples skipped by all workers.
    """

    def __init__(self, plan: RowPlan) -> None:
        self.plan, self.skipped = plan, SkipCount()

    def __getitem__(self, rows: list[Any]) -> Loaded:
        try:
            return Loaded(self.plan.load(rows), self.plan.skipped.take())
        except TooManySkipped as error:  # re-raised in the main process, without a worker's traceback
            return Loaded(None, self.plan.skipped.take(), error)

    def received(self, loaded: Loaded) -> Any:
        """Return the batch, in the training process. Raises TooManySkipped."""
        self.skipped.add(loaded.skips)
        if loaded.error is not None:
            raise loaded.error
        return loaded.batch


class PlannedLoader(DataLoader):
    """A DataLoader over PlannedBatches. Batches without any usable row are omitted."""

    def __iter__(self) -> Iterator[Any]:
        for loaded in super().__iter__():
            batch = self.dataset.received(loaded)
            if batch is not None:
                yield batch


class ResumableLoader:
    """An endless stream of training batches in the planned order, cut into `num_batches` per pass.

    Lightning stores `state_dict()` in every checkpoint. Defining `__len__` disables its prefetching, so the stored
    position is that of the next batch to train on.

    Args:
        plan: Rows and their reading.
        rows_per_batch: Rows of one batch on one rank.
        num_batches: Batches of one pass ("epoch" of the Trainer).
        rank, world_size: Rank of this process and number of ranks.
        num_workers: Loader processes; 0 reads in this process.
    """

    def __init__(
        self,
        plan: RowPlan,
        rows_per_batch: int,
        num_batches: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
    ) -> None:
        self.dataset = PlannedBatches(plan)
        self.rows_per_batch, self.num_batches = rows_per_batch, num_batches
        self.rank, self.world_size, self.num_workers = rank, world_size, num_workers
        self.position = {"epoch": 0, "window": 0, "row": 0}

    def __len__(self) -> int:
        return self.num_batches

    @property
    def plan(self) -> RowPlan:
        return self.dataset.plan

    def state_dict(self) -> dict[str, int]:
        return dict(self.position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = dict(state)

    def __iter__(self) -> Iterator[Any]:
        ends: deque[dict[str, int]] = deque()

        def batches() -> Iterator[list[Any]]:
            stream = self._rows_from(self.position)
            for _ in range(self.num_batches):
                rows = [next(stream) for _ in range(self.rows_per_batch * self.world_size)]
                ends.append(rows[-1][1])
                yield [row for row, _ in rows[self.rank :: self.world_size]]

        loader = DataLoader(
            self.dataset,
            sampler=batches(),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=pins(),
        )
        for loaded in loader:
            batch = self.dataset.received(loaded)
            self.position = ends.popleft()
            yield batch

    def _rows_from(self, position: dict[str, int]) -> Iterator[tuple[Any, dict[str, int]]]:
        """Yield every row from `position` on, with the position after it."""
        epoch, window, first = position["epoch"], position["window"], position["row"]
        num_empty = 0
        while True:
            rows = self.plan.rows(epoch, window)
            num_empty = 0 if rows else num_empty + 1
            if num_empty > self.plan.num_windows:
                raise ValueError("Expected at least one usable row in the shards, but got none.")
            for number in range(first, len(rows)):
                yield rows[number], {"epoch": epoch, "window": window, "row": number + 1}
            window, first = window + 1, 0
            if window == self.plan.num_windows:
                epoch, window = epoch + 1, 0


def like_lengths_together(
    lengths: np.ndarray, batch_size: int, seed: int, num_batches: int = 32, most_steps: float = 0
) -> list[np.ndarray]:
    """Group all positions in `lengths`, each once, into batches of similar lengths.

    A batch has at most `batch_size` items and, padded to its longest, at most `most_steps` steps (0: unlimited):
    batches then take about the same time and memory for long and short items. A longer item forms its own batch.

    Positions are sorted by length within each run of `num_batches` batches, and the batches of a run are shuffled.
    Shards written batch by batch then contain all lengths everywhere: with shards sorted by length from end to end, a
    training window would show the model one length at a time.
    """
    batches = []
    for number, start in enumerate(range(0, len(lengths), batch_size * num_batches)):
        run = start + np.argsort(lengths[start : start + batch_size * num_batches], kind="stable")
        parts = _cut(run, lengths[run], batch_size, most_steps)
        order = np.random.default_rng([seed, number]).permutation(len(parts))
        batches += [parts[place] for place in order]
    return batches


def _cut(run: np.ndarray, ascending: np.ndarray, batch_size: int, most_steps: float) -> list[np.ndarray]:
    firsts = [0]
    for place, length in enumerate(ascending.tolist()):
        size = place - firsts[-1]
        if size == batch_size or (size and most_steps and length * (size + 1) > most_steps):
            firsts.append(place)
    return np.split(run, firsts[1:])


def shared_evenly(batches: list[list[Any]], num_ranks: int) -> list[list[Any]]:
    """Return the same number of batches for every rank: a multiple of `num_ranks`, see `halved_until`."""
    if num_ranks == 1 or not batches:
        return batches
    return halved_until(batches, -(-len(batches) // num_ranks) * num_ranks)


def halved_until(batches: list[list[Any]], num_wanted: int) -> list[list[Any]]:
    """Split the largest batches in two until there are at least `num_wanted`.

    All ranks need the same number of batches, or distributed evaluation deadlocks if ranks wait for each other within a
    batch. Raises ValueError if there are fewer rows than wanted batches.
    """
    num_rows = sum(map(len, batches))
    if num_rows < num_wanted:
        raise ValueError(
            f"Expected at least {num_wanted} recordings or rows to give every rank as many batches as the others, but "
            f"got {num_rows} in {len(batches)} batches. Use fewer ranks, more of them (`num_validation_samples`, "
            "`num_validation_rows`), or larger batches (`evaluation_batch_size`, `batch_size`), which are split as "
            "needed."
        )
    batches = list(batches)
    while len(batches) < num_wanted:
        place = max(range(len(batches)), key=lambda place: len(batches[place]))
        half = -(-len(batches[place]) // 2)
        batches[place : place + 1] = [batches[place][:half], batches[place][half:]]
    return batches


def evaluation_loader(
    plan: RowPlan, batches: list[list[Any]], rank: int, world_size: int, num_workers: int
) -> PlannedLoader:
    """Load every batch once, strided over ranks, without repetition. Use with `use_distributed_sampler: false`."""
    return PlannedLoader(
        PlannedBatches(plan),
        sampler=batches[rank::world_size],
        batch_size=None,
        num_workers=num_workers,
        pin_memory=pins(),
    )


def pins() -> bool:
    """Check whether to make batches in pinned memory, from which copies to a GPU are asynchronous."""
    return torch.cuda.is_available()
