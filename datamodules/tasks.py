"""Tasks that one language model is trained on jointly: the shards of each, and the document made from a sample.

The format (modules/lm/text/prompt_format.py) defines the tokens of a document, a task what part of a sample it
contains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from datamodules.shards.samples import Sample
from datamodules.shards.shards import ShardIndex
from datamodules.speakers import UNREADABLE, speakers_of
from modules.api import Chats, PromptFormat, ReadsSpeech, WritesWords
from modules.tokens import Utterance

Document = tuple[list[int], int]
ALONE = -1  # group of a sample without a voice
UnknownSpeakers = Literal["refuse", "leave_out", "one_voice"]
NUM_TURN_TOKENS = 8  # tokens of a chat template around one message, at most


@runtime_checkable
class TakesTextTokens(Protocol):
    """Optional for a PromptFormat: the examples of a text whose tokens are given."""

    def example_from_tokens(self, text_tokens: Sequence[int], codes: Sequence[int]) -> Document: ...
    def understanding_from_tokens(self, text_tokens: Sequence[int], codes: Sequence[int]) -> Document: ...


class TaskFormat(PromptFormat, ReadsSpeech, TakesTextTokens, Chats, Protocol):
    """A PromptFormat that supports more than text-to-speech."""


@runtime_checkable
class Task(Protocol):
    """A task. `weight` is its share of documents, relative to the sum of all weights. `kind` is that of the shards:
    tokens or text.

    `folder` contains them, by split; None: the datamodule's. `voices` are None if a document needs only one sample.
    """

    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> float: ...
    @property
    def folder(self) -> Path | None: ...
    @property
    def kind(self) -> str: ...
    def voices(self, index: ShardIndex) -> "Voices | None":
        """Return the other samples of each sample's speaker."""
        ...

    def lengths(self, index: ShardIndex, num_extra_tokens: int | np.ndarray) -> np.ndarray:
        """Upper bound of each sample's document in tokens, from the index alone, without a voice."""
        ...

    def document(self, prompt_format: TaskFormat, sample: Sample, voice: Sample | None) -> Document: ...


@dataclass(frozen=True)
class TextToSpeech:
    """TTS: text in, codes out."""

    weight: float = 1.0
    folder: Path | None = None
    name: str = "text_to_speech"

    kind = "tokens"

    def voices(self, index: ShardIndex) -> "Voices | None":
        return None

    def lengths(self, index: ShardIndex, num_extra_tokens: int | np.ndarray) -> np.ndarray:
        return index.lengths + index.text_lengths + num_extra_tokens

    def document(self, prompt_format: TaskFormat, sample: Sample, voice: Sample | None) -> Document:
        if sample.text_tokens is not None:
            return prompt_format.example_from_tokens(sample.text_tokens, sample.codes)
        return spoken_example(prompt_format, sample.utterance())


@dataclass(frozen=True)
class VoiceCloning:
    """Voice cloning: a recording and its text, then another text in the same voice; only the latter carries loss.

    `unknown_speakers`: handling of recordings without a speaker. "refuse" raises a ValueError, "leave_out" omits them
    from this task, "one_voice" assumes that those of one source have the same speaker.
    """

    weight: float = 1.0
    folder: Path | None = None
    name: str = "voice_cloning"
    unknown_speakers: UnknownSpeakers = "refuse"

    kind = "tokens"

    def voices(self, index: ShardIndex) -> "Voices | None":
        return Voices(speaker_groups(index, self.unknown_speakers))

    def lengths(self, index: ShardIndex, num_extra_tokens: int | np.ndarray) -> np.ndarray:
        return index.lengths + index.text_lengths + num_extra_tokens

    def document(self, prompt_format: TaskFormat, sample: Sample, voice: Sample | None) -> Document:
        assert voice is not None
        said = sample.utterance()
        return prompt_format.example_tokens(said.text, said.codes, said.speaker, said.language, voice=voice.utterance())


@dataclass(frozen=True)
class SpeechUnderstanding:
    """ASR: codes in, text out."""

    weight: float = 1.0
    folder: Path | None = None
    name: str = "speech_understanding"

    kind = "tokens"

    def voices(self, index: ShardIndex) -> "Voices | None":
        return None

    def lengths(self, index: ShardIndex, num_extra_tokens: int | np.ndarray) -> np.ndarray:
        return index.lengths + index.text_lengths + num_extra_tokens

    def document(self, prompt_format: TaskFormat, sample: Sample, voice: Sample | None) -> Document:
        if sample.text_tokens is not None:
            return prompt_format.understanding_from_tokens(sample.text_tokens, sample.codes)
        return prompt_format.understanding_tokens(sample.text, sample.codes)


@dataclass(frozen=True)
class TextReplay:
    """Conversations without speech (datamodules/shards/text_shards.py), to preserve the text model's chat ability."""

    folder: Path
    weight: float = 1.0
    name: str = "text_replay"

    kind = "text"

    def voices(self, index: ShardIndex) -> "Voices | None":
        return None

    def lengths(self, index: ShardIndex, num_extra_tokens: int | np.ndarray) -> np.ndarray:
        return index.text_lengths + NUM_TURN_TOKENS * index.lengths + num_extra_tokens  # lengths are in messages

    def document(self, prompt_format: TaskFormat, sample: Sample, voice: Sample | None) -> Document:
        return prompt_format.chat_tokens(sample.about["messages"])


def spoken_example(prompt_format: PromptFormat, said: Utterance) -> Document:
    """The document of a text and its codes, with its words among the codes where the format writes them."""
    if isinstance(prompt_format, WritesWords):
        return prompt_format.aligned_example(said)
    return prompt_format.example_tokens(said.text, said.codes, said.speaker, said.language)


def speaker_groups(index: ShardIndex, unknown_speakers: UnknownSpeakers) -> np.ndarray:
    """Return a number for each sample, (N,): equal for the same speaker, ALONE if the speaker is omitted or the sample
    damaged. Raises ValueError for unknown speakers under "refuse"."""
    speakers = speakers_of(index)
    is_unknown_N = speakers.is_unknown_N
    if unknown_speakers == "refuse" and is_unknown_N.any():
        raise ValueError(
            f"Expected every recording of `{index.folder}` to name its speaker, but got {is_unknown_N.sum()} of "
            f"{len(index)} that do not, such as {str(index.keys[is_unknown_N.argmax()])!r}: a voice would be paired "
            "with a stranger's. Name the `speaker` in the source, or set the task's `unknown_speakers`: leave_out, or "
            "one_voice where each source has one voice."
        )
    is_left_out_N = is_unknown_N & (unknown_speakers == "leave_out")
    return np.where(is_left_out_N | (speakers.number_of == UNREADABLE), ALONE, speakers.number_of)


class Voices:
    """The other samples of each sample's speaker: those with the same number in `group_of` (N,), if not ALONE."""

    def __init__(self, group_of: np.ndarray) -> None:
        self.group_of = group_of
        own_numbers = group_of.max() + 1 + np.arange(len(group_of))
        _, group_of, counts = np.unique(
            np.where(group_of == ALONE, own_numbers, group_of), return_inverse=True, return_counts=True
        )
        self._group_of = group_of
        self.order = np.argsort(group_of, kind="stable")
        self.counts = counts[group_of]
        self.starts = (np.cumsum(counts) - counts)[group_of]
        self.places = np.empty(len(group_of), dtype=np.int64)
        self.places[self.order] = np.arange(len(group_of))
        self.places -= self.starts  # among its speaker's

    def without(self, is_left_out_N: np.ndarray) -> "Voices":
        """Return a copy in which omitted samples are ALONE and not used as a voice."""
        return Voices(np.where(is_left_out_N, ALONE, self.group_of))

    def shortest(self, lengths: np.ndarray) -> np.ndarray:
        """Return the shortest other sample of each one's speaker, (N,); -1 if there is none."""
        order = np.lexsort((lengths, self._group_of))
        first = order[self.starts]
        second = order[np.minimum(self.starts + 1, len(order) - 1)]
        return np.where(self.counts > 1, np.where(first == np.arange(len(order)), second, first), -1)

    def draw(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Sample another recording of the same speaker for each; -1 if there is none."""
        others = np.maximum(self.counts[samples] - 1, 1)
        steps = 1 + generator.integers(0, others)
        places = (self.places[samples] + steps) % self.counts[samples]
        return np.where(self.counts[samples] > 1, self.order[self.starts[samples] + places], -1)


def shares(tasks: Sequence[Task]) -> list[float]:
    """Return each task's share of the documents. Raises ValueError for invalid weights or duplicate names."""
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise ValueError(f"Expected a `name` of its own for each of the `tasks`, but got {names}.")
    weights = [task.weight for task in tasks]
    if min(weights, default=0) <= 0:
        raise ValueError(f"Expected a `weight` above 0 for each of the `tasks`, but got {weights}.")
    return [weight / sum(weights) for weight in weights]
