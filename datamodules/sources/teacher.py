"""TeacherSource: sentences that a synthesiser speaks, labelled synthetic, with the exact times of their words.

Shape letter: T audio samples.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from datamodules.sources.listed import Item, ListedSource, check_name, plain_key
from datamodules.sources.source import Recording, Skipped
from modules.api import Audio
from modules.audio import message_of

NGRAM = 4  # words in a row that a test sentence shares with no other sentence; it has at least as many
FIGURES = re.compile(r"\d")
WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)*")


class Sentences(Protocol):
    """A list of texts to speak. Its string names its settings: it is stored with the shards."""

    @property
    def license(self) -> str:
        """Short name of the licence, stored with each recording."""
        ...

    def sentences(self) -> Iterator[tuple[str, str]]:
        """Yield (id, text) of each sentence, always in the same order; ids and texts are distinct."""
        ...

    def credits(self) -> str:
        """Licence and credits, stored with the shards."""
        ...


@dataclass(frozen=True)
class Taught:
    """A spoken sentence: `words` are (word, end in seconds) in order, each word with the punctuation mark after it.

    The end of a word is the start of the next one's first phoneme, the last end is that of the audio: pauses belong to
    the word before, the silence at the start to the first word. `phonemes`, if known, are (ARPAbet symbol or SIL, end
    in seconds) in order.
    """

    audio: Audio
    words: tuple[tuple[str, float], ...]
    phonemes: tuple[tuple[str, float], ...] = ()


class Teacher(Protocol):
    """A synthesiser with one voice. `speak` is a pure function of its text. Its string names its settings."""

    @property
    def name(self) -> str: ...

    @property
    def voice(self) -> str: ...

    @property
    def license(self) -> str: ...

    def speak(self, text: str) -> Taught:
        """Raises ValueError, with the reason, if this text cannot be spoken; ImportError if no text can."""
        ...

    def credits(self) -> str: ...


@dataclass(frozen=True)
class Sentence:
    """A sentence of a list: its id, its text, its split and the licence of its text."""

    id: str
    text: str
    split: str
    license: str


class TeacherSource(ListedSource):
    """Sentences spoken by a synthesiser. Keys are TEACHER-VOICE_ID; the text of a recording is what was spoken.

    held_out and test are chosen by hash among all sentences of at least four words that share no four words in a row
    with any other sentence, and hold no figures, which are spoken as words that are not compared; all others are train.
    A text that differs from an earlier one in case or punctuation alone is left out.

    Args:
        teacher: The synthesiser.
        sentences: The lists of texts.
        num_sentences: Number of training sentences, the first ones in the order of their hashes, so that a smaller
            corpus is part of a larger one; None for all.
        num_held_out: Number of sentences of the split held_out, whatever `num_sentences` is.
        num_test: Number of sentences of the split test, likewise.
        name: Replaces TEACHER-VOICE.
        language: Language of the sentences.

    Raises (on use):
        ImportError: The synthesiser is not installed; names the command.
        ValueError: There are too few sentences.
    """

    def __init__(
        self,
        teacher: Teacher,
        sentences: list[Sentences],
        num_sentences: int | None = None,
        num_held_out: int = 200,
        num_test: int = 200,
        name: str = "",
        language: str = "en",
    ) -> None:
        check_name(name)
        if not sentences:
            raise ValueError("Expected `sentences` to name lists of sentences, but got none.")
        numbers = {"num_sentences": num_sentences, "num_held_out": num_held_out, "num_test": num_test}
        if odd := {key: number for key, number in numbers.items() if number is not None and number < 0}:
            raise ValueError(f"Expected `{next(iter(odd))}` to be at least 0, but got {next(iter(odd.values()))}.")
        self.teacher, self.sentences = teacher, sentences
        self.num_sentences, self.num_held_out, self.num_test = num_sentences, num_held_out, num_test
        self.name, self.language = name, language

    @property
    def source_name(self) -> str:
        return self.name or f"{self.teacher.name}-{self.teacher.voice}"

    def key(self, item: Item) -> str:
        return plain_key(f"{self.source_name}_{item.name}")

    def items(self) -> Iterator[Item]:
        for one in self._chosen():
            yield Item(
                one.id,
                text=one.text,
                speaker=self.teacher.voice,
                language=self.language,
                license=f"{self.teacher.license}; text: {one.license}",
                split=one.split,
            )

    def recording(self, key: str, item: Item) -> Recording | Skipped:
        try:
            taught = self.teacher.speak(item.text)
        except ValueError as error:
            return Skipped(key, f"not spoken: {message_of(error)}")
        more: dict[str, Any] = {"written": item.text, "words": [list(word) for word in taught.words], "synthetic": True}
        if taught.phonemes:
            more["phonemes"] = [list(phoneme) for phoneme in taught.phonemes]
        return Recording(
            key=key,
            audio=taught.audio,
            text=" ".join(word for word, _ in taught.words),
            speaker=item.speaker,
            language=item.language,
            source=self.source_name,
            license=item.license,
            split=item.split,
            more=more,
        )

    def credits(self) -> str:
        parts = [f"Synthetic speech. {self.teacher.credits()}", *(one.credits() for one in self.sentences)]
        return "\n\n".join(parts)

    def _chosen(self) -> Iterator[Sentence]:
        """Every held-out and test sentence, then the training sentences, all in the order of their hashes."""
        listed = self._listed()
        words = [spoken_words(text) for _, text, _ in listed]
        digests = [hashlib.sha256(" ".join(one).encode()).digest() for one in words]
        order = sorted(range(len(listed)), key=digests.__getitem__)
        is_alone = unshared(words)
        alone = [number for number in order if is_alone[number] and not FIGURES.search(listed[number][1])]
        alone = alone[: self.num_held_out + self.num_test]
        if len(alone) < self.num_held_out + self.num_test:
            raise ValueError(
                f"Expected `sentences` with `num_held_out` + `num_test` = {self.num_held_out + self.num_test} that "
                f"share no {NGRAM} words in a row with another one, but got {len(alone)} among {len(listed)}."
            )
        split_of = dict.fromkeys(alone[: self.num_held_out], "held_out")
        split_of |= dict.fromkeys(alone[self.num_held_out :], "test")
        train = [number for number in order if number not in split_of][: self.num_sentences]
        for number in [*alone, *train]:
            yield Sentence(*listed[number][:2], split_of.get(number, "train"), listed[number][2])

    def _listed(self) -> list[tuple[str, str, str]]:
        """(id, text, licence) of all lists, without texts of the words of an earlier one."""
        found: dict[str, tuple[str, str, str]] = {}
        for listing in self.sentences:
            for name, text in listing.sentences():
                found.setdefault(" ".join(spoken_words(text)), (name, text, listing.license))
        found.pop("", None)
        return list(found.values())


def spoken_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return WORD.findall(text.lower())


def unshared(sentences: Sequence[Sequence[str]]) -> list[bool]:
    """For each sentence, given as its words: has it at least NGRAM words, and no NGRAM in a row that another has?"""
    grams = [{" ".join(one[start : start + NGRAM]) for start in range(len(one) - NGRAM + 1)} for one in sentences]
    num_sentences = Counter(gram for one in grams for gram in one)
    return [bool(one) and all(num_sentences[gram] == 1 for gram in one) for one in grams]
