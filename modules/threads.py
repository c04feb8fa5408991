"""CPU cores, and torch's number of CPU threads around libraries that change it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def torch_threads(number: int | None = None) -> Iterator[None]:
    """Run with `number` CPU threads for torch (None: unchanged), and restore the previous number afterwards.

    Libraries with their own engine set the process's OpenMP threads, which torch shares: loading a CTranslate2 model
    leaves torch with the model's `intra_threads`, usually 1, and slows down subsequent training. Calls that load or run
    such a library belong inside this context manager, which is also a decorator.
    """
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
