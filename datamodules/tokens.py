"""TokenDataModule: packed rows of text and speech tokens for the language model, from token shards.

Shapes: R rows, L tokens of a row.
"""

import io
import json
import logging
from bisect import bisect_left, insort
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.order import ResumableLoader, evaluation_loader, num_windows, window_samples
from datamodules.shards import ShardIndex, ShardReader
from modules.api import PromptFormat, TokenBatch

log = logging.getLogger(__name__)

NO_LABEL = -100
MAX_WARNINGS = 10  # of single samples; then one in a thousand


def pack(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Best-fit packing: each document goes into the fullest row that still takes it. Longer documents are left out."""
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


def token_batch(rows: Sequence[Sequence[tuple[Sequence[int], int]]], row_length: int) -> TokenBatch:
    """Lay documents (tokens, number of context tokens without loss) side by side in rows of `row_length`."""
    shape = (len(rows), row_length)
    batch = TokenBatch(
        tokens_RL=torch.zeros(shape, dtype=torch.int64),
        labels_RL=torch.full(shape, NO_LABEL, dtype=torch.int64),
        positions_RL=torch.zeros(shape, dtype=torch.int64),
        documents_RL=torch.full(shape, -1, dtype=torch.int64),
    )
    for row, documents in enumerate(rows):
        start = 0
        for number, (tokens, num_context) in enumerate(documents):
            stop = start + len(tokens)
            batch.tokens_RL[row, start:stop] = torch.tensor(tokens)
            first = max(num_context, 1)  # nothing predicts the first token
            batch.labels_RL[row, start + first - 1 : stop - 1] = batch.tokens_RL[row, start + first : stop]
            batch.positions_RL[row, start:stop] = torch.arange(len(tokens))
            batch.documents_RL[row, start:stop] = number
            start = stop
    return batch


class TokenRows:
    """Rows are lists of samples that fit into `row_length` tokens, packed by the index's lengths alone.

    The length of a text in tokens is taken to be its length in bytes: exact for a byte tokenizer, an upper bound for
    byte-level BPE.
    """

    def __init__(
        self, index: ShardIndex, prompt_format: PromptFormat, row_length: int, seed: int, window_size: int = 1024
    ) -> None:
        self.index, self.reader, self.prompt_format = index, ShardReader(index), prompt_format
        self.row_length, self.seed, self.window_size = row_length, seed, window_size
        self.num_windows = num_windows(index, window_size)
        self.num_damaged, self.last_error = 0, ""
        self.document_lengths = index.lengths + index.text_lengths + prompt_format.num_extra_tokens
        num_long = int((self.document_lengths > row_length).sum())
        if num_long == len(index):
            raise ValueError(
                f"Expected `row_length` to hold at least one sample of `{index.folder}`, the shortest of which has "
                f"{self.document_lengths.min()} tokens, but got {row_length}."
            )
        if num_long:
            log.warning("%d of %d samples are longer than %d tokens: left out.", num_long, len(index), row_length)

    def rows(self, epoch: int, window: int) -> list[list[int]]:
        samples = window_samples(self.index, self.seed, epoch, window, self.window_size)
        packed = pack(self.document_lengths[samples].tolist(), self.row_length)
        order = np.random.default_rng([self.seed, epoch, window, 1]).permutation(len(packed))
        return [samples[packed[row]].tolist() for row in order]

    def load(self, rows: Sequence[Sequence[int]]) -> TokenBatch:
        documents = [[document for sample in row if (document := self.document(sample))] for row in rows]
        if not any(documents):
            raise ValueError(
                f"Expected a usable sample in {len(rows)} rows of `{self.index.folder}`, but got none; "
                f"the last reason: {self.last_error}"
            )
        return token_batch(documents, self.row_length)

    def document(self, sample: int) -> tuple[list[int], int] | None:
        """Tokens of a sample and how many carry no loss; None, counted and logged, where the sample cannot be used:
        damaged bytes, a code outside the codebook, a text that the tokenizer refuses."""
        try:
            files = self.reader.read(sample)
            codes = np.load(io.BytesIO(files["codes.npy"]), allow_pickle=False)
            return self.prompt_format.example_tokens(json.loads(files["json"])["text"], codes.tolist())
        except (ValueError, KeyError, OSError, EOFError) as error:
            self.num_damaged, self.last_error = self.num_damaged + 1, str(error)
            if self.num_damaged <= MAX_WARNINGS or self.num_damaged % 1000 == 0:
                log.warning("Skipped a sample (%d so far): %s", self.num_damaged, error)
            return None


def load_token_index(folder: Path, prompt_format: PromptFormat) -> ShardIndex:
    """The index of token shards; raises ValueError where they are of another codebook than the format's."""
    index = ShardIndex.load(folder, "tokens")
    codebook_size = prompt_format.token_space.codebook_size
    if index.header["codebook_size"] != codebook_size:
        raise ValueError(
            f"Expected token shards with `codebook_size`={codebook_size} in `{folder}`, but got "
            f"{index.header['codebook_size']}: they are of another codec."
        )
    return index


class TokenDataModule(L.LightningDataModule):
    """Packed token rows for training and validation.

    Args:
        folder: Token shards, `folder/SPLIT`.
        prompt_format: Where text and codes stand; linked to the model.
        row_length: Tokens of a row.
        batch_size: Rows of one training batch on one rank.
        num_batches: Batches of one pass of the Trainer.
        train_split, validation_split: Names of splits.
        num_validation_rows: Rows that validation uses.
        num_workers: Loader processes.
        seed: Of the order.
    """

    def __init__(
        self,
        folder: Path,
        prompt_format: PromptFormat,
        row_length: int = 1024,
        batch_size: int = 8,
        num_batches: int = 1000,
        train_split: str = "train",
        validation_split: str = "test",
        num_validation_rows: int = 16,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.folder, self.prompt_format, self.row_length = Path(folder), prompt_format, row_length
        self.batch_size, self.num_batches = batch_size, num_batches
        self.train_split, self.validation_split = train_split, validation_split
        self.num_validation_rows, self.num_workers, self.seed = num_validation_rows, num_workers, seed

    @property
    def codec_fingerprint(self) -> str:
        """Of the codec that made the shards."""
        return load_token_index(self.folder / self.train_split, self.prompt_format).header["codec_fingerprint"]

    def setup(self, stage: str) -> None:
        headers = {}
        for split in (self.train_split, self.validation_split):
            index = load_token_index(self.folder / split, self.prompt_format)
            headers[split] = index.header["codec_fingerprint"]
        if len(set(headers.values())) > 1:
            raise ValueError(f"Expected the token shards of one codec in `{self.folder}`, but got {headers}.")

    def train_dataloader(self) -> ResumableLoader:
        rows = self._rows(self.train_split)
        return ResumableLoader(
            rows, self.batch_size, self.num_batches, self.trainer.global_rank, self.trainer.world_size, self.num_workers
        )

    def val_dataloader(self) -> DataLoader:
        rows = self._rows(self.validation_split)
        chosen: list[list[int]] = []
        for window in range(rows.num_windows):
            chosen += rows.rows(0, window)
        chosen = chosen[: self.num_validation_rows]
        batches = [chosen[i : i + self.batch_size] for i in range(0, len(chosen), self.batch_size)]
        return evaluation_loader(rows, batches, self.trainer.global_rank, self.trainer.world_size, self.num_workers)

    def _rows(self, split: str) -> TokenRows:
        index = load_token_index(self.folder / split, self.prompt_format)
        return TokenRows(index, self.prompt_format, self.row_length, self.seed)
