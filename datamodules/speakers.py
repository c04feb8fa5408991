"""Who speaks in each sample of a shard folder. A speaker is (source, name): two corpora may both have a speaker "1"."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.shards.shards import ShardIndex, ShardReader, speaker_in
from modules.api import PromptFormat

log = logging.getLogger(__name__)

UNREADABLE = -1
LANGUAGE = "zh-Hans-CN"  # as long as language tags come, for planning


@dataclass(frozen=True)
class Speakers:
    """`number_of` (N,) gives the place in `names` of each sample's speaker, UNREADABLE where the sample is damaged.
    `names` are (source, name); the name is "" where the source does not say who speaks."""

    number_of: np.ndarray
    names: Sequence[tuple[str, str]]

    @property
    def is_unknown_N(self) -> np.ndarray:
        """(N,) bool: the sample can be read and names no speaker."""
        unnamed = np.array([not name for _, name in self.names], dtype=bool)
        return np.isin(self.number_of, np.flatnonzero(unnamed))


def speakers_of(index: ShardIndex) -> Speakers:
    """From the index; older ones number names whatever their source, or nothing: then every sample's json is read."""
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
            continue  # counted where it would be used
        number_of[row] = numbers.setdefault(speaker, len(numbers))
    return Speakers(number_of, list(numbers))


def planned_extra_tokens(index: ShardIndex, prompt_format: PromptFormat) -> int | np.ndarray:
    """Tokens of a sample's document beside its text and codes: `num_extra_tokens`. (N,) where the index names a speaker
    whose name is longer than that allows for."""
    planned = prompt_format.num_extra_tokens
    names = () if index.speakers is None else index.speakers[:, 1]
    of_speaker = np.array([_num_tokens(prompt_format, str(name)) for name in names])
    if not (of_speaker > planned).any():
        return planned
    return np.maximum(of_speaker, planned)[index.speaker_of]


def _num_tokens(prompt_format: PromptFormat, speaker: str) -> int:
    try:
        return len(prompt_format.prompt_tokens("a", speaker, LANGUAGE))  # "a" stands for the end of speech
    except ValueError:
        return 0  # a name that the tokenizer refuses: its documents are counted and left out
