"""Runs items of similar length together, to reduce computation on padding.

Shapes: B batch, T steps of any kind.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Fixed cost of a call on a CPU, which reads all weights, in seconds of audio: reading X-codec2's 0.6 billion takes
# about as long as processing 0.2 s of audio. A bucket may add this much padding to save a call.
CALL_SECONDS = 0.2

Run = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def in_buckets(
    run: Run, x_BT: Tensor, lengths_B: Tensor, steps_per_call: float, most_steps: float = math.inf
) -> tuple[Tensor, ...]:
    """Return the result of `run` for the whole batch, computed with one call per bucket of `like_lengths`.

    `run` takes rows, cut to their longest, and their lengths. It returns tensors with one row each: (B,), or (B, T',
    ...) with T' growing with T; shorter buckets are padded with zeros. An unsplit batch is passed as it is.
    """
    buckets = like_lengths(lengths_B, steps_per_call, most_steps)
    if len(buckets) == 1:
        return run(x_BT, lengths_B)
    parts = []
    for number, rows in enumerate(buckets):
        # The first bucket keeps the batch's length, so that the output has the same shape as without buckets.
        length = x_BT.shape[1] if number == 0 else max(1, int(lengths_B[rows[0]]))
        parts.append(run(x_BT[rows, :length], lengths_B[rows]))
    return tuple(_joined(column, buckets) for column in zip(*parts, strict=True))


def like_lengths(lengths_B: Tensor, steps_per_call: float, most_steps: float = math.inf) -> list[list[int]]:
    """Split all rows, longest first, into the buckets of least cost: `steps_per_call` each plus their padded steps.

    A bucket of several rows has at most `most_steps` padded steps.
    All rows form one bucket where the lengths are not on the host: off the CPU, where reading them costs a
    synchronisation and a large batch costs little, and under torch.compile, where it breaks the graph.
    """
    rows = list(range(len(lengths_B)))
    if len(rows) < 2 or lengths_B.device.type != "cpu" or torch.compiler.is_compiling():
        return [rows]
    lengths = lengths_B.tolist()
    rows.sort(key=lambda row: -lengths[row])
    cost, first = [0.0], [0]  # for the first n rows: the least cost, and the start of their last bucket
    for stop in range(1, len(rows) + 1):
        padded = ((at, (stop - at) * lengths[rows[at]]) for at in range(stop))
        best = min(
            (cost[at] + steps_per_call + steps, at) for at, steps in padded if at == stop - 1 or steps <= most_steps
        )
        cost.append(best[0])
        first.append(best[1])
    buckets, stop = [], len(rows)
    while stop:
        buckets.append(rows[first[stop] : stop])
        stop = first[stop]
    return buckets[::-1]


def _joined(parts: tuple[Tensor, ...], buckets: list[list[int]]) -> Tensor:
    whole = parts[0].new_zeros(sum(map(len, buckets)), *parts[0].shape[1:])
    for rows, part in zip(buckets, parts, strict=True):
        if part.ndim == 1:
            whole[rows] = part
        else:
            whole[rows, : part.shape[1]] = part
    return whole
