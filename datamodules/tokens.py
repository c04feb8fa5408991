"""TokenDataModule: packed rows of text and speech tokens for the language model, from token shards.

Shapes: R rows, L tokens of a row.
"""

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from datamodules.mixture import MixedRows
from datamodules.packing import fitting, pack, token_batch
from datamodules.shards.order import ResumableLoader, evaluation_loader, num_windows, shared_evenly, window_samples
from datamodules.shards.samples import Sample
from datamodules.shards.shards import ShardIndex
from datamodules.shards.skips import SkipNotes, replacements, spread
from datamodules.shards.training_facts import TrainingFacts, facts_of_shards, hours_by_license
from datamodules.tasks import Document, Task, TextToSpeech, VoiceCloning
from datamodules.token_counts import TokenCounts, count_tokens, planned_lengths, stored_counts
from modules.api import PromptFormat, TokenizesText
from modules.batches import TokenBatch

log = logging.getLogger(__name__)

MAX_COUNTED = 200_000  # texts that a fit counts itself, in a minute or two
SENTENCE = "The quick brown fox jumps over the lazy dog, and then it runs through the quiet town. " * 4


class TokenRows:
    """RowPlan of lists of samples that fit into `row_length` tokens, packed by lengths that are known without reading.

    The number of text tokens is taken from `counts`. Without counts, from the bytes: exact for a byte tokenizer, an
    upper bound for byte-level BPE.
    """

    def __init__(
        self,
        index: ShardIndex,
        prompt_format: PromptFormat,
        row_length: int,
        seed: int,
        window_size: int = 1024,
        counts: Sequence[TokenCounts] | None = None,
    ) -> None:
        self.counts = counts
        self.index, self.reader, self.prompt_format = index, index.reader(), prompt_format
        self.row_length, self.seed, self.window_size = row_length, seed, window_size
        self.num_windows = num_windows(index, window_size)
        self.task = TextToSpeech()
        self.document_lengths, _ = planned_lengths(self.task, index, prompt_format, counts[0] if counts else None)
        num_long = int((self.document_lengths > row_length).sum())
        if num_long == len(index):
            raise ValueError(
                f"Expected `row_length` to hold at least one sample of `{index.folder}`, the shortest of which has "
                f"{self.document_lengths.min()} tokens, but got {row_length}."
            )
        if num_long:
            log.warning("%d of %d samples are longer than %d tokens: left out.", num_long, len(index), row_length)
        self.usable = np.flatnonzero(self.document_lengths <= row_length)
        self.skipped = SkipNotes(str(index.folder), len(self.usable))

    def rows(self, epoch: int, window: int) -> list[list[int]]:
        samples = window_samples(self.index, self.seed, epoch, window, self.window_size)
        packed = pack(self.document_lengths[samples].tolist(), self.row_length)
        order = np.random.default_rng([self.seed, epoch, window, 1]).permutation(len(packed))
        return [samples[packed[row]].tolist() for row in order]

    def load(self, rows: Sequence[Sequence[int]]) -> TokenBatch:
        """Read rows. A row without any usable sample becomes one document of another sample."""
        documents = []
        for row in rows:
            documents.append([])
            room = self.row_length
            for sample in row:
                document = self.document(sample, room)
                if document is not None:
                    documents[-1].append(document)
                    room -= len(document[0])
            if not documents[-1]:
                documents[-1].append(self._replacement(row[0]))
        return token_batch(documents, self.row_length)

    def document(self, sample: int, room: float = math.inf) -> Document | None:
        """Return the tokens of a sample and the number of those without loss; None, recorded in `skipped`, if it is
        unusable: damaged bytes, a code outside the codebook, a text that the tokenizer rejects, more tokens than
        planned and than `room`."""
        return self.skipped.attempt(str(self.index.keys[sample]), lambda: self._read(sample, room))

    def check(self) -> None:
        """Raise TooManySkipped if none of a hundred samples, spread over all, is usable."""
        notes = SkipNotes(self.skipped.place, len(self.usable))
        for sample in spread(self.usable):
            if notes.attempt(str(self.index.keys[sample]), lambda sample=sample: self._read(sample, math.inf)):
                return

    def _read(self, sample: int, room: float) -> Document:
        document = self.task.document(self.prompt_format, Sample.read(self.reader, sample, "tokens"), None)
        return fitting(document, room)

    def _replacement(self, sample: int) -> Document:
        place = int(np.searchsorted(self.usable, sample))
        others = (
            self.document(int(self.usable[other]), self.row_length) for other in replacements(place, len(self.usable))
        )
        return next(document for document in others if document is not None)  # or raises TooManySkipped


def load_token_index(folder: Path, prompt_format: PromptFormat) -> ShardIndex:
    """Load the index of token shards. Raises ValueError if their codebook differs from the format's."""
    index = ShardIndex.load(folder, "tokens")
    codebook_size = prompt_format.token_space.codebook_size
    if index.header["codebook_size"] != codebook_size:
        raise ValueError(
            f"Expected token shards with `codebook_size`={codebook_size} in `{folder}`, but got "
            f"{index.header['codebook_size']}: they are of another codec."
        )
    return index


class TokenLoader(ResumableLoader):
    """ResumableLoader whose state also has the name of the token counts used to plan rows, "" for bytes: a resumed run
    plans by the same, even if tokens have been counted since. Older states have no such entry and mean bytes.

    Args:
        replan: Returns the plan for counts with that name; raises ValueError if they are missing.
    """

    def __init__(self, plan: TokenRows | MixedRows, replan: Callable[[str], TokenRows | MixedRows], *settings: int):
        super().__init__(plan, *settings)
        self.replan = replan

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "planned_by": names_of(self.plan.counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        position = dict(state)
        planned_by = position.pop("planned_by", "")
        if planned_by != names_of(self.plan.counts):
            self.dataset.plan = self.replan(planned_by)
        super().load_state_dict(position)


def names_of(counts: Sequence[TokenCounts] | None) -> str:
    return " ".join(one.name for one in counts or ())


def readable_hours(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.2f} min"


class TokenDataModule(L.LightningDataModule):
    """Packed token rows for training and validation.

    Training rows are planned by tokens if they have been counted for every folder, otherwise by the bytes of texts; a
    resumed run continues as it began. A fit counts up to MAX_COUNTED texts itself, and `python -m
    datamodules.training_steps` any number. Validation is always planned by bytes, so that its rows stay the same.

    Args:
        folder: Token shards, `folder/SPLIT`.
        prompt_format: Layout of text and codes; linked to the model.
        row_length: Tokens of a row.
        batch_size: Rows of one training batch on one rank.
        num_batches: Batches of one pass of the Trainer.
        train_split, validation_split: Names of splits.
        num_validation_rows: Number of validation rows, a fixed random choice from the whole split, in batches of at
            most `batch_size`; all ranks get the same number of batches.
        num_workers: Loader processes.
        seed: Seed of the order.
        tasks: Tasks to train on, mixed by weight (datamodules/tasks.py). None: text-to-speech only.
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
        tasks: list[Task] | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.prompt_format, self.row_length = Path(folder), prompt_format, row_length
        self.batch_size, self.num_batches = batch_size, num_batches
        self.train_split, self.validation_split = train_split, validation_split
        self.num_validation_rows, self.num_workers, self.seed = num_validation_rows, num_workers, seed
        self.tasks = tasks or []
        self._train_rows: TokenRows | MixedRows | None = None

    @property
    def codec_fingerprint(self) -> str:
        """Fingerprint of the codec that encoded the training data; "" if unknown."""
        return next((one for one in self._fingerprints(self.train_split) if one), "")

    @property
    def frame_rate(self) -> float | None:
        """Codes per second of speech; None if the shards do not state it."""
        index = next((index for index in self._indices(self.train_split) if index.kind == "tokens"), None)
        return None if index is None else index.header.get("frame_rate")

    @cached_property
    def training_facts(self) -> dict[str, Any]:
        """Facts of the training shards as plain data, for the checkpoint; {} if they cannot be read any more."""
        try:
            return self._facts().plain()
        except (OSError, ValueError) as error:  # a checkpoint is worth more than its facts
            log.warning("The checkpoint says nothing about its training data: %s", error)
            return {}

    def _facts(self) -> TrainingFacts:
        folders = [Path(task.folder or self.folder) for task in self._spoken_tasks] if self.tasks else [self.folder]
        return self._facts_of_shards(folders)

    def _facts_of_shards(self, folders: list[Path]) -> TrainingFacts:
        is_cloning = any(isinstance(task, VoiceCloning) for task in self._spoken_tasks)
        return facts_of_shards([one / self.train_split for one in folders], is_cloning, self.row_length)

    @property
    def _spoken_tasks(self) -> list[Task]:
        return [task for task in self.tasks if isinstance(task, TextToSpeech | VoiceCloning)]

    @property
    def task_names(self) -> list[str]:
        """Names of the task numbers in TokenBatch.tasks_RL; empty for a single task."""
        return [task.name for task in self.tasks]

    def prepare_data(self) -> None:
        """Count the tokens of the training texts before a fit, if they are few and rows would stay partly empty."""
        is_new_fit = self.trainer.state.fn == TrainerFn.FITTING and self.trainer.ckpt_path is None
        if not is_new_fit or not isinstance(self.prompt_format, TokenizesText) or not self._has_short_texts:
            return
        indices = {str(index.folder): index for index in self._indices(self.train_split)}.values()
        uncounted = [index for index in indices if stored_counts(index, self.prompt_format) is None]
        if sum(map(len, uncounted)) <= MAX_COUNTED and all(os.access(one.folder, os.W_OK) for one in uncounted):
            for index in uncounted:
                count_tokens(index, self.prompt_format)

    def setup(self, stage: str) -> None:
        headers = {split: self._fingerprints(split) for split in (self.train_split, self.validation_split)}
        if len({fingerprint for found in headers.values() for fingerprint in found} - {""}) > 1:
            raise ValueError(f"Expected the token shards of one codec in `{self.folder}`, but got {headers}.")
        if stage == "fit":
            self._print_licenses()
            self._train_rows = self._training_rows(self._broadcast(names_of(self._counts())))
            self._train_rows.check()  # before the model is built

    def _print_licenses(self) -> None:
        """Print the hours of speech by licence, on the first rank, in one line."""
        if self.trainer is not None and self.trainer.global_rank:
            return
        hours: Counter[str] = Counter()
        indices = {str(index.folder): index for index in self._indices(self.train_split) if index.kind == "tokens"}
        for index in indices.values():
            hours.update(hours_by_license(index))
        if hours:
            listed = [f"{name or 'not stated'} {readable_hours(number)}" for name, number in hours.most_common()]
            print(f"licences of the training data: {', '.join(listed)}")

    def train_dataloader(self) -> ResumableLoader:
        rows, self._train_rows = self._train_rows or self._training_rows(names_of(self._counts())), None
        rank, num_ranks = self.trainer.global_rank, self.trainer.world_size
        return TokenLoader(
            rows, self._training_rows, self.batch_size, self.num_batches, rank, num_ranks, self.num_workers
        )

    def val_dataloader(self) -> DataLoader:
        rows = self._rows(self.validation_split)
        chosen: list[list[int]] = []
        for window in range(rows.num_windows):
            chosen += rows.rows(0, window)
        if rows.num_windows > 1:  # a window has a few shards, perhaps of one source; its rows are in random order
            order = np.random.default_rng(self.seed).permutation(len(chosen))
            chosen = [chosen[place] for place in order]
        chosen = chosen[: self.num_validation_rows]
        batches = [chosen[i : i + self.batch_size] for i in range(0, len(chosen), self.batch_size)]
        rank, num_ranks = self.trainer.global_rank, self.trainer.world_size
        return evaluation_loader(rows, shared_evenly(batches, num_ranks), rank, num_ranks, self.num_workers)

    def _rows(self, split: str, counts: list[TokenCounts] | None = None) -> TokenRows | MixedRows:
        indices = self._indices(split)
        if not self.tasks:
            return TokenRows(indices[0], self.prompt_format, self.row_length, self.seed, counts=counts)
        pairs = list(zip(self.tasks, indices, strict=True))
        return MixedRows(pairs, self.prompt_format, self.row_length, self.seed, counts=counts)

    def _training_rows(self, planned_by: str) -> TokenRows | MixedRows:
        """Plan training rows by the named counts. Raises ValueError if they are missing."""
        counts = self._counts() if planned_by else None
        if names_of(counts) != planned_by:
            raise ValueError(
                f"Expected the token counts {planned_by} beside the shards of {self._folders(self.train_split)}, but "
                f"got {names_of(counts) or 'none'}: the run was planned by them. Bring back the data and the prompt "
                "format that it had and count again (python -m datamodules.training_steps), or start another run."
            )
        return self._rows(self.train_split, counts)

    def _counts(self) -> list[TokenCounts] | None:
        """Return the counts of the training shards; None unless all are counted, with a warning if they would help."""
        found = [stored_counts(index, self.prompt_format) for index in self._indices(self.train_split)]
        if all(found):
            return found
        if self._has_short_texts:
            log.warning(
                "Rows are planned by the bytes of texts, which this tokenizer encodes as fewer tokens: rows stay "
                "partly empty. `python -m datamodules.training_steps` counts the tokens of %s; later runs plan by "
                "them.",
                self._folders(self.train_split),
            )
        return None

    @property
    def _has_short_texts(self) -> bool:
        """Whether texts have fewer tokens than bytes."""
        try:
            return len(self.prompt_format.prompt_tokens(SENTENCE)) < len(SENTENCE)
        except ValueError:
            return False

    def _broadcast(self, planned_by: str) -> str:
        """Return the first rank's value, because all ranks must plan alike."""
        if self.trainer is None or self.trainer.world_size == 1:
            return planned_by
        return self.trainer.strategy.broadcast(planned_by)

    def _folders(self, split: str) -> str:
        return ", ".join(dict.fromkeys(str(Path(task.folder or self.folder) / split) for task in self.tasks)) or str(
            self.folder / split
        )

    def _indices(self, split: str) -> list[ShardIndex]:
        """Return the index of each task, or of the single folder."""
        if not self.tasks:
            return [self._index("tokens", None, split)]
        return [self._index(task.kind, task.folder, split) for task in self.tasks]

    def _index(self, kind: str, folder: Path | None, split: str) -> ShardIndex:
        """The index of a task's samples; folder None: the datamodule's."""
        place = Path(folder or self.folder) / split
        return load_token_index(place, self.prompt_format) if kind == "tokens" else ShardIndex.load(place, kind)

    def _fingerprints(self, split: str) -> list[str]:
        indices = [index for index in self._indices(split) if index.kind == "tokens"]
        if not indices:
            raise ValueError("Expected a task with speech among the `tasks`, but got text alone.")
        return [index.header["codec_fingerprint"] for index in indices]
