"""AlignedSource: recordings of any corpus with the times of their words, by forced alignment (English)."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

from datamodules.sources.listed import HoldOut, Item, ListedSource
from datamodules.sources.source import Recording, Skipped, unusable_audio
from modules.audio import message_of
from modules.frontend.alignment import PhonemeAligner
from modules.frontend.phonemes import marked_words, pronunciations
from modules.frontend.verbalise import verbalise


class AlignedSource(ListedSource):
    """The recordings of another source, with its keys, splits and credits. Their text is what is spoken: lower-case
    words, numbers as words, each word with the punctuation mark after it. The json's `words` are [word, end in seconds]
    in order: a word ends where the next one starts, the last one with the audio; `written` is the text as it was.

    A recording that is not English, or whose audio does not fit its text (modules/frontend/alignment.py), is skipped.
    studies/voice/alignment.json has the error of the times on speech whose times are known.

    Args:
        source: The corpus, such as FolderSource.

    Raises:
        ValueError: `source` cannot list its recordings.
        ImportError (on use): pocketsphinx, or wetext for numbers, is not installed.
    """

    def __init__(self, source: ListedSource) -> None:
        if not isinstance(source, ListedSource):
            raise ValueError(f"Expected `source` to be a ListedSource, but got {type(source).__name__}.")
        self.source = source

    @property
    def folder(self) -> Path:  # type: ignore[override]
        return self.source.folder

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.source.name

    @property
    def hold_out(self) -> HoldOut:  # type: ignore[override]
        return self.source.hold_out

    @property
    def in_place(self) -> bool:  # type: ignore[override]
        return self.source.in_place

    @property
    def prefixes_keys(self) -> bool:  # type: ignore[override]
        return self.source.prefixes_keys

    @property
    def source_name(self) -> str:
        return self.source.source_name

    def key(self, item: Item) -> str:
        return self.source.key(item)

    def items(self) -> Iterator[Item]:
        return self.source.items()

    def keyed_items(self) -> list[tuple[str, Item]]:
        return self.source.keyed_items()

    def members(self, item: Item) -> Iterator[Item]:
        return self.source.members(item)

    def credits(self) -> str:
        return self.source.credits()

    def recording(self, key: str, item: Item) -> Recording | Skipped:
        found = self.source.recording(key, item)
        if isinstance(found, Skipped) or unusable_audio(found.audio):
            return found  # the caller names the fault of the audio
        if not found.language.lower().startswith("en"):
            return Skipped(key, f"not aligned: only English can be, not the language {found.language!r}")
        try:
            words = aligned_words(found)
        except ValueError as error:
            return Skipped(key, f"not aligned: {message_of(error)}")
        text = " ".join(word for word, _ in words)
        more = {**found.more, "written": found.text, "words": [list(word) for word in words]}
        return replace(found, text=text, more=more)


def aligned_words(recording: Recording) -> list[tuple[str, float]]:
    """Words with their marks, and their ends in seconds. Raises ValueError if they do not fit the audio."""
    words = marked_words("".join(spoken for _, spoken in verbalise(recording.text, "en")))
    timed = _aligner().align(recording.audio, [word for word, _ in words])
    ends = [*(round(one.start, 5) for one in timed[1:]), recording.audio.seconds]
    if any(end <= start for start, end in pairwise([0.0, *ends])):
        raise ValueError(f"Expected words that end one after the other, but got ends at {ends} s.")
    return [(word + mark, end) for (word, mark), end in zip(words, ends, strict=True)]


@cache
def _aligner() -> PhonemeAligner:
    """One for each process: loading the acoustic model takes a while."""
    return PhonemeAligner(pronunciations)
