"""Keys and values of past tokens, for a batch of rows that grows by one token per step.

Shapes: A layers, R rows, K key-value heads, S positions, D head size; the dimension of size 2 holds keys, then values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class PrefillCache:
    """Passed to a Llama as `past_key_values`, it keeps what each layer computes and changes nothing."""

    def __init__(self) -> None:
        self.layers: list[Tensor] = []

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, **kwargs: object) -> tuple[Tensor, Tensor]:
        self.layers.append(torch.stack([keys, values]))
        return keys, values

    def stacked(self) -> Tensor:
        """(A, 2, R, K, S, D)."""
        return torch.stack(self.layers)


class RowCache:
    """The growing cache of rows of different lengths: every row ends at the same column, shorter ones begin later.

    A step writes one column for all rows.

    Args:
        prefixes_A2KSD: What each row starts from; (A, 2, K, S, D) with S of its own.
        num_free_columns: How many steps fit in all.
    """

    def __init__(self, prefixes_A2KSD: Sequence[Tensor], num_free_columns: int):
        first = prefixes_A2KSD[0]
        lengths = [prefix.shape[3] for prefix in prefixes_A2KSD]
        self.width = max(lengths)
        num_layers, _, num_heads, _, head_size = first.shape
        # Zeros and not empty: what stands before a row's first token has no weight, but 0 * NaN would be NaN.
        self.data = first.new_zeros(
            (num_layers, 2, len(prefixes_A2KSD), num_heads, self.width + num_free_columns, head_size)
        )
        for row, (prefix, length) in enumerate(zip(prefixes_A2KSD, lengths, strict=True)):
            self.data[:, :, row, :, self.width - length : self.width] = prefix
        self.starts = [self.width - length for length in lengths]
        self.starts_R = torch.tensor(self.starts, device=first.device)

    @property
    def num_free_columns(self) -> int:
        return self.data.shape[4] - self.width

    def attention_mask(self) -> Tensor | None:
        """(R, 1, 1, S + 1): True on the keys that each row may see in the coming step. None: all of them."""
        if not any(self.starts):
            return None
        columns = torch.arange(self.width + 1, device=self.starts_R.device)
        return (columns >= self.starts_R[:, None])[:, None, None, :]

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Write the step's column; all keys and values up to it. Called by each layer of the Llama."""
        layer = self.data[layer_idx]
        layer[0, :, :, self.width] = keys[:, :, 0]
        layer[1, :, :, self.width] = values[:, :, 0]
        return layer[0, :, :, : self.width + 1], layer[1, :, :, : self.width + 1]

    def advance(self) -> None:
        """After every layer has written its column."""
        self.width += 1

    def row(self, row: int, length: int) -> Tensor:
        """A view of the first `length` tokens of a row: (A, 2, K, length, D)."""
        return self.data[:, :, row, :, self.starts[row] : self.starts[row] + length]
