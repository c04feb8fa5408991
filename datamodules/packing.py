"""Packing: documents of different lengths in rows of one length.

Shapes: R rows, L tokens of a row.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
import torch

from modules.batches import TokenBatch

NO_LABEL = -100


def pack(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Best-fit packing: each document goes into the fullest row with enough space. Longer documents are omitted."""
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room left, row), sorted
    for document, length in enumerate(lengths):
        if length > row_length:
            continue
        place = bisect_left(rooms, (length, -1))
        if place < len(rooms):
            room, row = rooms.pop(place)
        else:
            room, row = row_length, len(rows)
            rows.append([])
        rows[row].append(document)
        insort(rooms, (room - length, row))
    return rows


def token_batch(
    rows: Sequence[Sequence[tuple[Sequence[int], int]]], row_length: int, tasks: Sequence[Sequence[int]] | None = None
) -> TokenBatch:
    """Concatenate documents (tokens, number of context tokens without loss) in rows of `row_length`.

    `tasks` is each document's task number in a mixture.
    """
    shape = (len(rows), row_length)
    tokens_RL, positions_RL = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    labels_RL, documents_RL = np.full(shape, NO_LABEL, np.int64), np.full(shape, -1, np.int64)
    tasks_RL = None if tasks is None else np.zeros(shape, np.int64)
    places_L = np.arange(row_length)
    for row, documents in enumerate(rows):
        start = 0
        for number, (tokens, num_context) in enumerate(documents):
            stop = start + len(tokens)
            tokens_RL[row, start:stop] = tokens
            first = max(num_context, 1)  # the first token is not predicted
            labels_RL[row, start + first - 1 : stop - 1] = tokens_RL[row, start + first : stop]
            positions_RL[row, start:stop] = places_L[: len(tokens)]
            documents_RL[row, start:stop] = number
            if tasks_RL is not None:
                tasks_RL[row, start:stop] = tasks[row][number]
            start = stop
    fields = (tokens_RL, labels_RL, positions_RL, documents_RL, tasks_RL)
    return TokenBatch(*(None if field is None else torch.from_numpy(field) for field in fields))


def fitting(document: tuple[list[int], int], room: float) -> tuple[list[int], int]:
    """Return the document. Raises ValueError if it has more than `room` tokens, i.e. more than the index states."""
    if len(document[0]) > room:
        raise ValueError(f"Expected a document of at most {room} tokens, but got {len(document[0])}.")
    return document
