"""Rows that mix the documents of several tasks by weight. The order is a pure function of (seed, window).

Each task has an endless stream of its samples, reshuffled in every epoch. A window takes the next piece of each stream,
of a length proportional to the task's share: after any number of windows, no share is off by more than one document.
Samples that a task cannot use (too long, no second recording of the speaker) are not part of its stream.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.packing import fitting, pack, token_batch
from datamodules.shards.order import SomeSamples, stream_samples
from datamodules.shards.samples import ReadsSamples, Sample
from datamodules.shards.shards import ShardIndex, ShardReader
from datamodules.shards.skips import SkipNotes, replacements, spread
from datamodules.tasks import Document, Task, TaskFormat, Voices, shares
from datamodules.token_counts import TokenCounts, planned_lengths
from modules.api import Chats
from modules.batches import TokenBatch

log = logging.getLogger(__name__)

SEED_STEP = 7919  # between tasks that read the same shards, so that their orders differ
Planned = tuple[int, int, int]  # task, sample, voice sample or -1


@dataclass(frozen=True)
class Source:
    """A task's samples of one split: those of `index` in `usable`. `lengths` (N,) exclude a voice, `voice_lengths` is
    what a sample adds as a voice, `shortest` the sample that adds least to each."""

    task: Task
    index: ShardIndex
    reader: ShardReader | ReadsSamples
    lengths: np.ndarray
    usable: SomeSamples
    voices: Voices | None = None
    voice_lengths: np.ndarray | None = None
    shortest: np.ndarray | None = None

    @classmethod
    def planned(
        cls,
        task: Task,
        index: ShardIndex,
        prompt_format: TaskFormat,
        row_length: int,
        counts: TokenCounts | None = None,
    ) -> "Source":
        """Build a source. Logs a warning for omitted samples; raises ValueError if none is left."""
        lengths, text_lengths = planned_lengths(task, index, prompt_format, counts)
        voices, voice_lengths, shortest = task.voices(index), None, None
        is_long = lengths > row_length
        is_alone = np.zeros(len(index), dtype=bool)
        if voices is not None:
            voices = voices.without(is_long)
            is_alone = (voices.counts < 2) & ~is_long
            voice_lengths = index.lengths + text_lengths + 1  # a space between texts
            shortest = voices.shortest(voice_lengths)
            is_long |= ~is_alone & (lengths + voice_lengths[shortest] > row_length)
        left = ~(is_long | is_alone)
        if is_alone.any() and not left.any():
            raise ValueError(
                f"Expected a speaker with two recordings in `{index.folder}` that fit into `row_length`={row_length}, "
                "but got none."
            )
        if not left.any():
            raise ValueError(
                f"Expected `row_length` to hold at least one sample of `{index.folder}`, the shortest of which has "
                f"{lengths.min()} tokens, but got {row_length}."
            )
        if not left.all():
            log.warning(
                "%s: %d of %d samples are left out: %d need more than %d tokens, %d have no second recording of their "
                "speaker. The task keeps its share: the others are used more often.",
                task.name,
                (~left).sum(),
                len(index),
                is_long.sum(),
                row_length,
                is_alone.sum(),
            )
        usable = SomeSamples(index, np.flatnonzero(left))
        return cls(task, index, index.reader(), lengths, usable, voices, voice_lengths, shortest)

    def alone(self, place: int, sample: int) -> Planned:
        """Return `sample` as a document of task `place` that fits into a row, with the shortest voice."""
        return place, sample, -1 if self.shortest is None else int(self.shortest[sample])


class MixedRows:
    """A RowPlan over several tasks. Rows are lists of (task, sample, voice) that fit into `row_length` tokens.

    Args:
        tasks: Each with the index of the samples it reads.
        prompt_format: Tokens of a document.
        row_length: Tokens of a row.
        seed: Seed of the order.
        window_size: Number of documents sampled and packed together.
        counts: Token counts of each task's texts; None plans by their bytes.
    """

    def __init__(
        self,
        tasks: Sequence[tuple[Task, ShardIndex]],
        prompt_format: TaskFormat,
        row_length: int,
        seed: int,
        window_size: int = 1024,
        counts: Sequence[TokenCounts] | None = None,
    ) -> None:
        self.counts = counts
        self.prompt_format, self.row_length, self.seed, self.window_size = prompt_format, row_length, seed, window_size
        self.shares = shares([task for task, _ in tasks])
        if any(task.kind == "text" for task, _ in tasks) and not isinstance(prompt_format, Chats):
            raise ValueError(
                f"Expected a prompt format with a chat template for text, but got {type(prompt_format).__name__}: "
                "modules.lm.text.prompt_format.LlasaChat has one."
            )
        self.sources = [
            Source.planned(task, index, prompt_format, row_length, one)
            for (task, index), one in zip(tasks, counts or [None] * len(tasks), strict=True)
        ]
        self.num_windows = math.ceil(sum(len(source.usable) for source in self.sources) / window_size)
        places = ", ".join(str(folder) for folder in dict.fromkeys(index.folder for _, index in tasks))
        self.skipped = SkipNotes(places, sum(len(source.usable) for source in self.sources))

    def rows(self, epoch: int, window: int) -> list[list[Planned]]:
        number = epoch * self.num_windows + window
        documents: list[Planned] = []
        lengths: list[int] = []
        for place, (source, share) in enumerate(zip(self.sources, self.shares, strict=True)):
            start, stop = (int(share * self.window_size * count + 0.5) for count in (number, number + 1))
            seed = self.seed + SEED_STEP * place
            samples = source.usable.rows[stream_samples(source.usable, seed, start, stop, self.window_size)]
            planned = source.lengths[samples]
            voices = np.full(len(samples), -1)
            if source.voices is not None:
                voices = source.voices.draw(samples, np.random.default_rng([seed, number, 2]))
                is_long = planned + source.voice_lengths[voices] > self.row_length
                voices = np.where(is_long, source.shortest[samples], voices)
                planned = planned + source.voice_lengths[voices]
            documents += [(place, *pair) for pair in zip(samples.tolist(), voices.tolist(), strict=True)]
            lengths += planned.tolist()
        packed = pack(lengths, self.row_length)
        order = np.random.default_rng([self.seed, number, 1]).permutation(len(packed))
        return [[documents[document] for document in packed[row]] for row in order]

    def load(self, rows: Sequence[Sequence[Planned]]) -> TokenBatch:
        """Read rows. A row without any usable document becomes one document of another sample."""
        documents, tasks = [], []
        for row in rows:
            documents.append([])
            tasks.append([])
            room = self.row_length
            for planned in row:
                document = self.document(planned, room)
                if document is not None:
                    documents[-1].append(document)
                    tasks[-1].append(planned[0])
                    room -= len(document[0])
            if not documents[-1]:
                place, document = self._replacement(row[0])
                documents[-1].append(document)
                tasks[-1].append(place)
        return token_batch(documents, self.row_length, tasks)

    def document(self, planned: Planned, room: float) -> Document | None:
        """Return tokens and the number of those without loss; None, recorded in `skipped`, if the sample is unusable:
        damaged bytes, a code outside the codebook, a text that the tokenizer rejects, more tokens than planned and than
        `room`."""
        return self.skipped.attempt(self._key(planned), lambda: self._read(planned, room))

    def check(self) -> None:
        """Raise TooManySkipped if a task cannot use any of a hundred samples spread over all."""
        for place, source in enumerate(self.sources):
            notes = SkipNotes(f"{source.index.folder} ({source.task.name})", len(source.usable))
            for sample in spread(source.usable.rows):
                planned = source.alone(place, sample)
                if notes.attempt(self._key(planned), lambda planned=planned: self._read(planned, math.inf)):
                    break

    def _key(self, planned: Planned) -> str:
        source = self.sources[planned[0]]
        return f"{source.index.keys[planned[1]]} ({source.task.name})"

    def _read(self, planned: Planned, room: float) -> Document:
        place, number, voice = planned
        source = self.sources[place]
        try:
            sample = self._sample(source, number)
            voiced = self._sample(source, voice) if voice >= 0 else None
            return fitting(source.task.document(self.prompt_format, sample, voiced), room)
        except Exception as error:
            if voice < 0:
                raise
            raise ValueError(f"{error} (after the voice {str(source.index.keys[voice])!r})") from error

    def _replacement(self, planned: Planned) -> tuple[int, Document]:
        """Return a document and its task from the samples that follow: of the same task, then of the next ones."""
        for step in range(len(self.sources)):
            place = (planned[0] + step) % len(self.sources)
            source = self.sources[place]
            first = int(np.searchsorted(source.usable.rows, planned[1])) if not step else 0
            for other in replacements(first, len(source.usable)):
                document = self.document(source.alone(place, int(source.usable.rows[other])), self.row_length)
                if document is not None:
                    return place, document
        raise AssertionError("`skipped` raises after as many samples as there are")

    @staticmethod
    def _sample(source: Source, number: int) -> Sample:
        return Sample.read(source.reader, number, source.task.kind)
