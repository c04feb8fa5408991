"""Sentences and a synthesiser of tones for tests of TeacherSource: no package is needed."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from datamodules.sources.teacher import Taught
from modules.api import Audio

SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class ListedSentences:
    """Texts of a list, with their places as ids."""

    texts: tuple[str, ...]
    name: str = "list"
    license = "CC0 1.0"

    def sentences(self) -> Iterator[tuple[str, str]]:
        yield from ((f"{self.name}-{number}", text) for number, text in enumerate(self.texts))

    def credits(self) -> str:
        return f"{self.name} by nobody."


class ToneTeacher:
    """Speaks every word as 50 ms of a tone; cannot say "unspeakable"."""

    name, voice, license = "tones", "flute", "CC0 1.0"

    def __repr__(self) -> str:
        return "ToneTeacher()"

    def speak(self, text: str) -> Taught:
        words = text.lower().split()
        if "unspeakable" in words:
            raise ValueError("nothing to speak: at all")
        hop = SAMPLE_RATE // 20
        samples_T = 0.5 * torch.sin(torch.arange(hop * len(words)) * (0.05 + 0.001 * len(text)))
        ends = [hop * (number + 1) / SAMPLE_RATE for number in range(len(words))]
        return Taught(Audio(samples_T, SAMPLE_RATE), tuple(zip(words, ends, strict=True)))

    def credits(self) -> str:
        return "Tones by nobody."
