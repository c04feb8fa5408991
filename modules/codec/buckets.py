"""Items of like lengths run together, so that little is computed on padding.

Shapes: B batch, T steps of any kind.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# What a call costs a CPU beside its frames, for it reads all weights, in audio: X-codec2's 0.6 billion take about as
# long as 0.2 s of audio do. So much padding may save a call.
CALL_SECONDS = 0.2

Run = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def in_buckets(
    run: Run, x_BT: Tensor, lengths_B: Tensor, steps_per_call: float, most_steps: float = math.inf
) -> tuple[Tensor, ...]:
    """What `run` gives for the whole batch, from one call per bucket of `like_lengths`.

    `run` takes rows, cut to their longest, and their lengths. It gives tensors with a row for each: (B,), or
    (B, T', ...) with T' growing with T; zeros stand where a shorter bucket gave less. Where nothing is split, the batch
    goes through as it is.
    """
    buckets = like_lengths(lengths_B, steps_per_call, most_steps)
    if len(buckets) == 1:
        return run(x_BT, lengths_B)
    parts = []
    for number, rows in enumerate(buckets):
        # The first bucket keeps the length of the batch: what comes out then has the shape that it would have anyway.
        length = x_BT.shape[1] if number == 0 else max(1, int(lengths_B[rows[0]]))
        parts.append(run(x_BT[rows, :length], lengths_B[rows]))
    return tuple(_joined(column, buckets) for column in zip(*parts, strict=True))


def like_lengths(lengths_B: Tensor, steps_per_call: float, most_steps: float = math.inf) -> list[list[int]]:
    """Every row once, longest first, in the buckets that cost least: `steps_per_call` each, and its padded steps.

    A bucket of several rows has at most `most_steps` padded steps.
    All rows are one bucket where the lengths are not at hand: off the CPU, where a look costs a sync and a large batch
    costs little, and under torch.compile, where it breaks the graph.
    """
    rows = list(range(len(lengths_B)))
    if len(rows) < 2 or lengths_B.device.type != "cpu" or torch.compiler.is_compiling():
        return [rows]
    lengths = lengths_B.tolist()
    rows.sort(key=lambda row: -lengths[row])
    cost, first = [0.0], [0]  # of the first n rows at their best: what they cost, and where their last bucket begins
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
