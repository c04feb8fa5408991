"""Speakers of the samples of a shard folder. A speaker is (source, name): two corpora may both have a speaker "1"."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.shards.shards import ShardIndex, ShardReader, speaker_in
from modules.api import PromptFormat

log = logging.getLogger(__name__)

UNREADABLE = -1
LANGUAGE = "zh-Hans-CN"  # as long as a language tag, for planning


@dataclass(frozen=True)
class Speakers:
    """`number_of` (N,) is the index in `names` of each sample's speaker, or UNREADABLE if the sample is damaged.
    `names` are (source, name); the name is "" if the source does not state the speaker."""

    number_of: np.ndarray
    names: Sequence[tuple[str, str]]

    @property
    def is_unknown_N(self) -> np.ndarray:
        """(N,) bool: the sample is readable and has no speaker."""
        unnamed = np.array([not name for _, name in self.names], dtype=bool)
        return np.isin(self.number_of, np.flatnonzero(unnamed))


def speakers_of(index: ShardIndex) -> Speakers:
    """Return the speakers in the index. Older indices number names regardless of their source, or nothing: then every
    sample's json is read."""
    if index.speakers is not None:
        return Speakers(index.speaker_of, [(str(source), str(name)) for source, name in index.speakers])
    log.warning(
        "The index of `%s` is older than the rule that a speaker is one of its source: who speaks is read from its %d "
        "samples.",
        index.folder,
        len(index),
    )
    reader, numbers = ShardReader(index), {}
    number_of = np.full(len(index), UNREADABLE)
    for row in range(len(index)):
        try:
            speaker = speaker_in(reader.read(row))
        except Exception:  # noqa: BLE001, whatever the sample holds
            continue  # counted when it would be used
        number_of[row] = numbers.setdefault(speaker, len(numbers))
    return Speakers(number_of, list(numbers))


def planned_extra_tokens(index: ShardIndex, prompt_format: PromptFormat) -> int | np.ndarray:
    """Tokens of a sample's document in addition to its text and codes: `num_extra_tokens`. (N,) if a speaker's name in
    the index is longer than that allows for."""
    planned = prompt_format.num_extra_tokens
    names = () if index.speakers is None else index.speakers[:, 1]
    of_speaker = np.array([_num_tokens(prompt_format, str(name)) for name in names])
    if not (of_speaker > planned).any():
        return planned
    return np.maximum(of_speaker, planned)[index.speaker_of]


def _num_tokens(prompt_format: PromptFormat, speaker: str) -> int:
    try:
        return len(prompt_format.prompt_tokens("a", speaker, LANGUAGE))  # "a" counts for the end of speech
    except ValueError:
        return 0  # the tokenizer rejects the name: its documents are counted and omitted
