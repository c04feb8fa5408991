"""Speech recognition as everybody shares it: protocols of a recogniser and of a normaliser, and the error rate."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from modules.api import Audio


class Recogniser(Protocol):
    """Speech recogniser. All of its output counts as transcript: it must not write tags such as [noise] or (music)."""

    @property
    def model_hash(self) -> str: ...
    @property
    def families(self) -> frozenset[str]: ...
    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        """One text per clip, independent of the other clips; exceptions of the model propagate."""
        ...

    def flops(self, seconds: float) -> float: ...


class Normaliser(Protocol):
    """Converts a text to the form in which it is compared. `name` is printed with every rate computed with it.

    `identity` (a JSON value) changes whenever the normalised text may change: it contains the class's name without its
    module, the version of its rules (incremented with every change of the output) and a digest of each of its tables.
    It is part of the key of stored scores.
    """

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> dict[str, Any]: ...
    def __call__(self, text: str) -> str: ...


def error_rate(reference: str, hypothesis: str, unit: Literal["word", "character"]) -> float:
    """Edit distance / length of the reference, over words or characters (jiwer); above 1 with many insertions.

    Raises:
        ValueError: The reference is empty.
    """
    import jiwer

    if not reference.strip():
        raise ValueError(f"Expected `reference` to hold at least one {unit}, but got {reference!r}.")
    return float((jiwer.wer if unit == "word" else jiwer.cer)(reference, hypothesis))
