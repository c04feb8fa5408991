"""KV cache for a batch of rows that grows by one token per step.

Shapes: A layers, R rows, K key-value heads, S positions, D head size; the dimension of size 2 holds keys, then values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

_MIN_ROWS_PER_ROOT = 4  # on average; below it, separate attention per run costs more than it saves


class PrefillCache:
    """Records each layer's keys and values when passed to a Llama as `past_key_values`; does not change the result."""

    def __init__(self) -> None:
        self.layers: list[Tensor] = []

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, **kwargs: object) -> tuple[Tensor, Tensor]:
        self.layers.append(torch.stack([keys, values]))
        return keys, values

    def stacked(self) -> Tensor:
        """Return (A, 2, R, K, S, D)."""
        return torch.stack(self.layers)


@dataclass(frozen=True)
class Prefix:
    """State required to extend a Branch: the cache of all its tokens but the last, and the last token.

    `root_A2KSD` is the prompt's cache, one tensor shared by all its branches; `tail_A2KSD` is the cache of the branch's
    own tokens.
    """

    root_A2KSD: Tensor
    tail_A2KSD: Tensor
    last_token: int

    @classmethod
    def of_prompt(cls, cache_A2KSD: Tensor, last_token: int) -> Prefix:
        return cls(cache_A2KSD, cache_A2KSD[:, :, :, :0], last_token)

    @property
    def num_tokens(self) -> int:
        """Number of tokens in the cache."""
        return self.root_A2KSD.shape[3] + self.tail_A2KSD.shape[3]

    def apart(self) -> Prefix:
        """Return the prefix with a copy of the tail, because a view would keep the cache of the whole batch."""
        return replace(self, tail_A2KSD=self.tail_A2KSD.clone())


@dataclass(frozen=True)
class Roots:
    """Keys and values shared by runs of adjacent rows: one cache per run, and its number of rows."""

    caches_A2KSD: list[Tensor]
    num_rows: list[int]


class RowCache:
    """Growing cache of rows of different lengths, right-aligned: every row ends at the same column.

    A step writes one column for all rows. If many rows come from few prompts, each prompt's keys and values are not
    copied and are read once for all its rows (`roots`; Hydragen, arXiv 2402.05099); otherwise they are copied.

    Args:
        prefixes: State that each row starts from. Those of one prompt are adjacent.
        num_free_columns: Maximum number of steps.
    """

    def __init__(self, prefixes: Sequence[Prefix], num_free_columns: int):
        self.prefixes = prefixes
        runs = [list(run) for _, run in groupby(prefixes, key=lambda prefix: id(prefix.root_A2KSD))]
        self.roots: Roots | None = None
        if len(runs) * _MIN_ROWS_PER_ROOT <= len(prefixes):
            self.roots = Roots([run[0].root_A2KSD for run in runs], [len(run) for run in runs])
        self._num_root_tokens = [0 if self.roots else prefix.root_A2KSD.shape[3] for prefix in prefixes]
        ends = [prefix.tail_A2KSD.shape[3] for prefix in prefixes]
        lengths = [num_tokens + end for num_tokens, end in zip(self._num_root_tokens, ends, strict=True)]
        self.width = max(lengths)
        num_layers, _, num_heads, _, head_size = prefixes[0].root_A2KSD.shape
        # Zeros, not empty: entries before a row's first token have no weight, but 0 * NaN would be NaN.
        self.data = prefixes[0].root_A2KSD.new_zeros(
            (num_layers, 2, len(prefixes), num_heads, self.width + num_free_columns, head_size)
        )
        for row, (prefix, end) in enumerate(zip(prefixes, ends, strict=True)):
            self.data[:, :, row, :, self.width - end : self.width] = prefix.tail_A2KSD
            if self.roots is None:
                self.data[:, :, row, :, self.width - lengths[row] : self.width - end] = prefix.root_A2KSD
        self.starts = [self.width - length for length in lengths]
        self.starts_R = torch.tensor(self.starts, device=self.data.device)

    @property
    def num_free_columns(self) -> int:
        return self.data.shape[4] - self.width

    def attention_mask(self) -> Tensor | None:
        """Return (R, 1, 1, S + 1), True for the keys visible to each row in the next step; None: all of them."""
        if not any(self.starts):
            return None
        columns = torch.arange(self.width + 1, device=self.starts_R.device)
        return (columns >= self.starts_R[:, None])[:, None, None, :]

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Write the step's column and return all keys and values up to it. Called by each layer of the Llama."""
        layer = self.data[layer_idx]
        layer[0, :, :, self.width] = keys[:, :, 0]
        layer[1, :, :, self.width] = values[:, :, 0]
        return layer[0, :, :, : self.width + 1], layer[1, :, :, : self.width + 1]

    def advance(self) -> None:
        """Advance to the next column, after every layer has written the current one."""
        self.width += 1

    def prefix(self, row: int, num_new_tokens: int, last_token: int) -> Prefix:
        """State of a row that has processed `num_new_tokens` here; its tail is a view of `data`."""
        before = self.prefixes[row]
        start = self.starts[row] + self._num_root_tokens[row]
        tail = self.data[:, :, row, :, start : start + before.tail_A2KSD.shape[3] + num_new_tokens]
        return Prefix(before.root_A2KSD, tail, last_token)
