"""Token counts of every text of a shard folder under one prompt format, computed once to plan rows.

A fit of a small corpus, or `python -m datamodules.training_steps` of any, computes them and stores them in the shard
folder, in one file per prompt format. Without counts rows are planned by the bytes of texts, an upper bound for
byte-pair tokenizers.

Shapes: N samples.
"""

import hashlib
import logging
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from datamodules.memmap_index import MemmapIndex
from datamodules.shards.samples import Sample
from datamodules.shards.shards import ShardIndex, ShardReader
from datamodules.shards.stored_arrays import mapped_arrays
from datamodules.speakers import planned_extra_tokens
from datamodules.tasks import NUM_TURN_TOKENS, TakesTextTokens, Task, spoken_example
from modules.api import Chats, PromptFormat, ReadsSpeech, TokenizesText, VariesExamples, WritesWords

log = logging.getLogger(__name__)

PROBES = ("a", "one two three", "Hello, World! 42 %", "Ein Mädchen, größer.", "你好，世界", "Привет", "eins\n zwei")
ROLES = ("user", "assistant")
CHUNK = 4096  # samples per task of a worker process


@dataclass(frozen=True)
class TokenCounts:
    """`text_N`: tokens of each text; `extra_N`: tokens of its document in addition to text and codes. `name` identifies
    format and texts; training checkpoints store it."""

    name: str
    text_N: np.ndarray
    extra_N: np.ndarray


def planned_lengths(
    task: Task, index: ShardIndex, prompt_format: PromptFormat, counts: TokenCounts | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return an upper bound (N,) of each sample's document in tokens, and (N,) of its text; without counts, from the
    bytes. A phonetic spelling may exceed the bytes in rare texts: rows leave such a document out."""
    if counts is None:
        extra = planned_extra_tokens(index, prompt_format)
        if isinstance(prompt_format, WritesWords):
            extra = extra + index.text_lengths  # the words stand in the answer too
        return task.lengths(index, extra), index.text_lengths
    return task.lengths(replace(index, text_lengths=counts.text_N), counts.extra_N), counts.text_N


def counts_name(index: ShardIndex, prompt_format: PromptFormat) -> str:
    """Derive the name from the lengths of the texts, the speakers, and the format's tokens for a few other texts."""
    digest = hashlib.sha256(np.ascontiguousarray(index.text_lengths, dtype=np.int64).tobytes())
    for array in (index.speakers, index.speaker_of):  # a document may contain the speaker's name
        digest.update(repr(None if array is None else array.tolist()).encode())
    for text in PROBES:
        makes = [partial(prompt_format.prompt_tokens, text, *names) for names in (("", ""), ("ann", "en"))]
        if isinstance(prompt_format, ReadsSpeech):
            makes.append(partial(prompt_format.understanding_tokens, text, [0]))
        if isinstance(prompt_format, Chats):
            makes.append(partial(prompt_format.chat_tokens, [{"role": role, "content": text} for role in ROLES]))
        for make in makes:
            try:
                tokens = make()
            except ValueError:
                tokens = None
            digest.update(repr(tokens).encode())
    if isinstance(prompt_format, WritesWords):
        digest.update(b"the words stand in the answer too")
    tokenizer = prompt_format.tokenizer if isinstance(prompt_format, TokenizesText) else None
    if isinstance(tokenizer, VariesExamples):
        digest.update(repr(tokenizer.encode_example("a few words " * 40)).encode())
    return f"token_counts_{digest.hexdigest()[:16]}"


def stored_counts(index: ShardIndex, prompt_format: PromptFormat) -> TokenCounts | None:
    """Return stored counts, or those of an index whose lengths of texts are in tokens; None if there are none."""
    if isinstance(index, MemmapIndex):
        return _counts_of_memmaps(index, prompt_format)
    name = counts_name(index, prompt_format)
    path = index.folder / f"{name}.npz"
    if not path.is_file():
        return None
    arrays = mapped_arrays(path)
    return TokenCounts(name, arrays["text_N"], arrays["extra_N"])


def _counts_of_memmaps(index: MemmapIndex, prompt_format: TakesTextTokens) -> TokenCounts:
    makes = (prompt_format.example_from_tokens, prompt_format.understanding_from_tokens)
    num_extra = max(len(make([0], [0])[0]) for make in makes) - 2
    name = f"memmap_rows_{index.rows_hash}_{num_extra}"
    return TokenCounts(name, index.text_lengths, np.broadcast_to(np.int32(num_extra), len(index)))


def count_tokens(index: ShardIndex, prompt_format: PromptFormat, num_workers: int = 1) -> TokenCounts:
    """Read every sample, and store the counts in the shard folder. An unusable sample counts by its bytes.

    Raises ValueError if the format has no `tokenizer`.
    """
    from tqdm import tqdm

    if not isinstance(prompt_format, TokenizesText):
        raise ValueError(f"Expected a prompt format with a `tokenizer`, but got {type(prompt_format).__name__}.")
    chunks = [range(start, min(start + CHUNK, len(index))) for start in range(0, len(index), CHUNK)]
    counter = _Counter(index, prompt_format)
    with (
        tqdm(total=len(index), desc=f"counting the tokens of {index.folder}", unit="text", disable=None) as bar,
        ExitStack() as stack,
    ):
        if num_workers > 1:
            pool = stack.enter_context(ProcessPoolExecutor(num_workers, initializer=_keep, initargs=(counter,)))
            found = pool.map(_count, chunks)
        else:
            found = map(counter, chunks)
        parts = []
        for part in found:
            parts.append(part)
            bar.update(part.shape[1])
    counts = TokenCounts(counts_name(index, prompt_format), *np.concatenate(parts, axis=1))
    unfinished = index.folder / f"{counts.name}.npz.{platform.node()}.{os.getpid()}.part"
    try:
        with unfinished.open("wb") as stream:
            np.savez(stream, text_N=counts.text_N, extra_N=counts.extra_N)
        os.replace(unfinished, index.folder / f"{counts.name}.npz")
    except OSError as error:
        log.warning("The token counts could not be stored with the shards; training plans without them: %s", error)
    return counts


class _Counter:
    """Return (2, rows): tokens of texts, and those in addition to text and codes."""

    def __init__(self, index: ShardIndex, prompt_format: PromptFormat) -> None:
        self.index, self.reader, self.prompt_format = index, ShardReader(index), prompt_format
        self.extra_by_bytes = np.broadcast_to(planned_extra_tokens(index, prompt_format), len(index))

    def __call__(self, rows: range) -> np.ndarray:
        return np.array([self._counts(row) for row in rows], dtype=np.int64).T

    def _counts(self, row: int) -> tuple[int, int]:
        try:
            sample = Sample.read(self.reader, row, self.index.kind)
            if self.index.kind == "text":
                whole = len(self.prompt_format.chat_tokens(sample.about["messages"])[0])
                return whole - NUM_TURN_TOKENS * int(self.index.lengths[row]), 0
            return self._of_speech(sample)
        except Exception:  # noqa: BLE001, whatever the sample holds: the reader of training skips and counts it
            return int(self.index.text_lengths[row]), int(self.extra_by_bytes[row])

    def _of_speech(self, sample: Sample) -> tuple[int, int]:
        """The longer of both directions: TTS, and ASR if the format supports it."""
        said = sample.utterance()
        num_text = len(self.prompt_format.tokenizer.encode(said.text))
        wholes = [len(spoken_example(self.prompt_format, said)[0])]
        if isinstance(self.prompt_format, ReadsSpeech):
            wholes.append(len(self.prompt_format.understanding_tokens(said.text, said.codes)[0]))
        return num_text, max(wholes) - len(said.codes) - num_text


_counter: _Counter | None = None  # per worker process


def _keep(counter: _Counter) -> None:
    global _counter
    _counter = counter


def _count(rows: range) -> np.ndarray:
    assert _counter is not None
    return _counter(rows)
