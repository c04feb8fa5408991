"""Miniatures of corpora whose recordings lie in tar or parquet files, and what a source finds in those."""

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from datamodules.sources.listed import Item, ListedSource
from datamodules.sources.source import Recording, Skipped
from tests.toys.miniatures import Found, found_in


def tone(seconds: float = 0.1, sample_rate: int = 16_000, audio_format: str = "FLAC", frequency: float = 440) -> bytes:
    """The content of an audio file."""
    times_T = np.arange(round(seconds * sample_rate)) / sample_rate
    stream = io.BytesIO()
    wave_T = (0.4 * np.sin(2 * np.pi * frequency * times_T)).astype(np.float32)
    soundfile.write(stream, wave_T, sample_rate, format=audio_format)
    return stream.getvalue()


def write_tar(path: Path, files: Sequence[tuple[str, bytes | str]], mode: str = "w") -> None:
    """Write members in this order, as the standard library does; a name that ends in `/` is a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
            content = content.encode() if isinstance(content, str) else content
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


class _Counted:
    """A source whose number of recordings is that inside its containers."""

    def __init__(self, source: ListedSource) -> None:
        self.source = source
        self.found = list(source.recordings())

    @property
    def num_recordings(self) -> int:
        return len(self.found)

    def recordings(self) -> Iterator[Recording | Skipped]:
        return iter(self.found)


def found_inside(source: ListedSource) -> Found:
    """`found_in` for a source with containers."""
    return found_in(_Counted(source))


def members_of(source: ListedSource) -> dict[str, Item]:
    """Items in all containers, by published id."""
    return {member.name: member for item in source.items() for member in source.members(item)}
