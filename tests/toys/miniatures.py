"""Miniatures of published corpora: short tones in a layout, and what a source finds in it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from datamodules.sources.listed import ListedSource
from datamodules.sources.source import Recording, Skipped


def write_tone(path: Path, sample_rate: int, seconds: float = 0.1, **how: Any) -> None:
    """Write a tone of 440 Hz with soundfile, and the folders above it. `how`: soundfile's format and subtype."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times_T = np.arange(round(seconds * sample_rate)) / sample_rate
    soundfile.write(path, (0.4 * np.sin(2 * np.pi * 440 * times_T)).astype(np.float32), sample_rate, **how)


def write_text(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


@dataclass(frozen=True)
class Found:
    """What a source yields: its recordings by published id, and how many were skipped, by the part of the reason before
    its colon."""

    kept: dict[str, Recording]
    skips: dict[str, int]
    reasons: dict[str, str]

    @property
    def speakers(self) -> set[str]:
        return {recording.speaker for recording in self.kept.values()}

    @property
    def splits(self) -> dict[str, str]:
        return {name: recording.split for name, recording in self.kept.items()}

    @property
    def hours(self) -> float:
        lengths = [one.audio.samples_T.numel() / one.audio.sample_rate for one in self.kept.values()]
        return sum(lengths) / 3600


def found_in(source: ListedSource) -> Found:
    """Read a source; fails if a key stands twice or its number of recordings is another."""
    items = list(source.recordings())
    assert len({item.key for item in items}) == len(items) == source.num_recordings
    assert not [item.key for item in items if set(item.key) & set("./ ")]
    skipped = [item for item in items if isinstance(item, Skipped)]
    kept = [item for item in items if isinstance(item, Recording)]
    by_id = {one.more["id"]: one for one in kept}
    assert len(by_id) == len(kept)
    skips = Counter(item.reason.partition(":")[0] for item in skipped)
    return Found(by_id, dict(skips), {item.key: item.reason for item in skipped})
