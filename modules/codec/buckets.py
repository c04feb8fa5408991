"""Items of like lengths run together, so that little is computed on padding.

Shapes: B batch, T steps of any kind.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# A call more reads all weights once more: about what so much audio costs on a CPU, and what padding may cost.
PADDING_SECONDS = 0.5

Run = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def in_buckets(run: Run, x_BT: Tensor, lengths_B: Tensor, most_padding: float) -> tuple[Tensor, ...]:
    """What `run` gives for the whole batch, from one call per bucket of `like_lengths`.

    `run` takes rows, cut to their longest, and their lengths. It gives tensors with a row for each: (B,), or
    (B, T', ...) with T' growing with T; zeros stand where a shorter bucket gave less. Where nothing is split, the batch
    goes through as it is.
    """
    buckets = like_lengths(lengths_B, most_padding)
    if len(buckets) == 1:
        return run(x_BT, lengths_B)
    parts = []
    for number, rows in enumerate(buckets):
        # The first bucket keeps the length of the batch: what comes out then has the shape that it would have anyway.
        length = x_BT.shape[1] if number == 0 else max(1, int(lengths_B[rows[0]]))
        parts.append(run(x_BT[rows, :length], lengths_B[rows]))
    return tuple(_joined(column, buckets) for column in zip(*parts, strict=True))


def like_lengths(lengths_B: Tensor, most_padding: float) -> list[list[int]]:
    """Every row once, longest first, in buckets of which none holds more than `most_padding` steps of padding.

    All rows are one bucket where the lengths are not at hand: off the CPU, where a look costs a sync and a large batch
    costs little, and under torch.compile, where it breaks the graph.
    """
    rows = list(range(len(lengths_B)))
    if len(rows) < 2 or lengths_B.device.type != "cpu" or torch.compiler.is_compiling():
        return [rows]
    lengths = lengths_B.tolist()
    buckets: list[list[int]] = []
    padding = 0.0
    for row in sorted(rows, key=lambda row: -lengths[row]):
        padding += lengths[buckets[-1][0]] - lengths[row] if buckets else 0
        if not buckets or padding > most_padding:
            buckets.append([])
            padding = 0.0
        buckets[-1].append(row)
    return buckets


def _joined(parts: tuple[Tensor, ...], buckets: list[list[int]]) -> Tensor:
    whole = parts[0].new_zeros(sum(map(len, buckets)), *parts[0].shape[1:])
    for rows, part in zip(buckets, parts, strict=True):
        if part.ndim == 1:
            whole[rows] = part
        else:
            whole[rows, : part.shape[1]] = part
    return whole
