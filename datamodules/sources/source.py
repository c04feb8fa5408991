"""What a corpus layout yields: the Source protocol and its two records."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from modules.api import Audio


@dataclass(frozen=True)
class Recording:
    """One labelled recording.

    `key` holds no dot, slash or space (WebDataset splits names at the first dot). `split` is empty where the hash of
    the key decides; a source that must keep texts apart (digits) names it.
    """

    key: str
    audio: Audio
    text: str
    speaker: str
    language: str
    source: str
    license: str
    split: str = ""


@dataclass(frozen=True)
class Skipped:
    """A file that could not be used, and why. Counted and listed in the index's report."""

    key: str
    reason: str


class Source(Protocol):
    """One corpus layout. `recordings` never raises for a single bad file: it yields Skipped."""

    @property
    def num_recordings(self) -> int:
        """How many items `recordings` will yield, for the progress bar."""
        ...

    def recordings(self) -> Iterator[Recording | Skipped]: ...

    def credits(self) -> str:
        """Licence and credits, written beside the shards."""
        ...
