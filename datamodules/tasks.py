"""Tasks that one language model learns side by side: which shards each reads, and what document a sample becomes.

The format (modules/lm/prompt_format.py) says which tokens a document is made of; a task says what of a sample goes in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from datamodules.shards import ShardIndex
from modules.api import PromptFormat
from modules.tokens import Utterance

Document = tuple[list[int], int]
NUM_TURN_TOKENS = 8  # of a chat template around one message, at most


class TaskFormat(PromptFormat, Protocol):
    """A PromptFormat that has more than text-to-speech."""

    def understanding_tokens(self, text: str, codes: Sequence[int]) -> Document: ...
    def chat_tokens(self, messages: Sequence[dict[str, str]]) -> Document: ...


@dataclass(frozen=True)
class Sample:
    """What a shard holds of one sample: `about` is its json; `codes` are empty for text."""

    about: dict[str, Any]
    codes: Sequence[int]

    def utterance(self) -> Utterance:
        about = self.about
        return Utterance(about["text"], self.codes, about.get("speaker", ""), about.get("language", ""))


@runtime_checkable
class Task(Protocol):
    """`weight` is the share of documents, over the sum of all weights. `kind` is that of the shards: tokens or text.

    `folder` holds them, by split; None: the datamodule's. `needs_voice` asks for another sample of the same speaker.
    """

    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> float: ...
    @property
    def folder(self) -> Path | None: ...
    @property
    def kind(self) -> str: ...
    @property
    def needs_voice(self) -> bool: ...
    def lengths(self, index: ShardIndex, num_extra_tokens: int) -> np.ndarray:
        """Tokens that each sample's document has at most, by the index alone, without a voice."""
        ...

    def document(self, prompt_format: TaskFormat, sample: Sample, voice: Sample | None) -> Document: ...


@dataclass(frozen=True)
class TextToSpeech:
    """Text is read, codes are spoken."""

    weight: float = 1.0
    folder: Path | None = None
    name: str = "text_to_speech"

    kind = "tokens"
    needs_voice = False

    def lengths(self, index: ShardIndex, num_extra_tokens: int) -> np.ndarray:
        return index.lengths + index.text_lengths + num_extra_tokens

    def document(self, prompt_format: TaskFormat, sample: Sample, voice: Sample | None) -> Document:
        said = sample.utterance()
        return prompt_format.example_tokens(said.text, said.codes, said.speaker, said.language)


@dataclass(frozen=True)
class VoiceCloning:
    """A recording and its text come first, then the same voice speaks another text; only the latter is learned."""

    weight: float = 1.0
    folder: Path | None = None
    name: str = "voice_cloning"

    kind = "tokens"
    needs_voice = True

    def lengths(self, index: ShardIndex, num_extra_tokens: int) -> np.ndarray:
        return index.lengths + index.text_lengths + num_extra_tokens

    def document(self, prompt_format: TaskFormat, sample: Sample, voice: Sample | None) -> Document:
        assert voice is not None
        said = sample.utterance()
        return prompt_format.example_tokens(said.text, said.codes, said.speaker, said.language, voice=voice.utterance())


@dataclass(frozen=True)
class SpeechUnderstanding:
    """Codes are heard, text is written: speech recognition."""

    weight: float = 1.0
    folder: Path | None = None
    name: str = "speech_understanding"

    kind = "tokens"
    needs_voice = False

    def lengths(self, index: ShardIndex, num_extra_tokens: int) -> np.ndarray:
        return index.lengths + index.text_lengths + num_extra_tokens

    def document(self, prompt_format: TaskFormat, sample: Sample, voice: Sample | None) -> Document:
        return prompt_format.understanding_tokens(sample.about["text"], sample.codes)


@dataclass(frozen=True)
class TextReplay:
    """Conversations without speech (shards of datamodules/text_shards.py), so that the text model's chat is kept."""

    folder: Path
    weight: float = 1.0
    name: str = "text_replay"

    kind = "text"
    needs_voice = False

    def lengths(self, index: ShardIndex, num_extra_tokens: int) -> np.ndarray:
        return index.text_lengths + NUM_TURN_TOKENS * index.lengths + num_extra_tokens  # a length is in messages

    def document(self, prompt_format: TaskFormat, sample: Sample, voice: Sample | None) -> Document:
        return prompt_format.chat_tokens(sample.about["messages"])


class Voices:
    """For each sample the other samples of its speaker."""

    def __init__(self, index: ShardIndex) -> None:
        if index.speaker_of is None:
            raise ValueError(f"Expected shards that list speakers in `{index.folder}`, but got none: write them again.")
        speaker_of = index.speaker_of
        self.order = np.argsort(speaker_of, kind="stable")
        self.counts = np.bincount(speaker_of)[speaker_of]
        starts = np.cumsum(np.bincount(speaker_of)) - np.bincount(speaker_of)
        self.starts = starts[speaker_of]
        self.places = np.empty(len(index), dtype=np.int64)
        self.places[self.order] = np.arange(len(index))
        self.places -= self.starts  # among its speaker's
        if self.counts.max() < 2:
            raise ValueError(f"Expected a speaker with two recordings in `{index.folder}`, but got none.")

    def draw(self, samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Another sample of the same speaker for each; -1 where there is none."""
        others = np.maximum(self.counts[samples] - 1, 1)
        steps = 1 + generator.integers(0, others)
        places = (self.places[samples] + steps) % self.counts[samples]
        return np.where(self.counts[samples] > 1, self.order[self.starts[samples] + places], -1)


def shares(tasks: Sequence[Task]) -> list[float]:
    """Each task's share of the documents. Raises ValueError on weights that cannot be shares, or a name twice."""
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise ValueError(f"Expected a `name` of its own for each of the `tasks`, but got {names}.")
    weights = [task.weight for task in tasks]
    if min(weights, default=0) <= 0:
        raise ValueError(f"Expected a `weight` above 0 for each of the `tasks`, but got {weights}.")
    return [weight / sum(weights) for weight in weights]
