"""Small corpora for preparation: recordings with texts in a folder, tars of others, a source that lists nothing."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch

from datamodules.shards.shards import ShardIndex
from datamodules.sources.listed import Item, ListedSource
from datamodules.sources.source import Recording
from modules.api import Audio

NUM = 40


def write_noise(folder: Path) -> Path:
    """NUM recordings of five speakers with their texts, and one that is none."""
    noise = np.random.default_rng(0)
    for number in range(NUM):
        name = f"speaker{number % 5}_{number:02d}"
        soundfile.write(folder / f"{name}.wav", noise.normal(0, 0.1, 4000 + 50 * number), 22050)
        (folder / f"{name}.txt").write_text(f"sentence {number} of many")
    (folder / "speaker9_99.wav").write_bytes(b"RIFF, but no sound")
    (folder / "speaker9_99.txt").write_text("nothing")
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below the folder, by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def keys_of(indices: dict[str, ShardIndex]) -> dict[str, set[str]]:
    return {split: set(map(str, index.keys)) for split, index in indices.items()}


def spoken(folder: Path, texts: dict[str, str]) -> Path:
    """Recordings SPEAKER/NAME.wav with their texts."""
    noise = np.random.default_rng(1)
    for name, text in texts.items():
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise.normal(0, 0.1, 1600), 16000)
        path.with_suffix(".txt").write_text(text)
    return folder


class Stream:
    """A source with `recordings` alone: one tone."""

    num_recordings = 1

    def __init__(self, key: str, frequency: float) -> None:
        self.key, self.frequency = key, frequency

    def recordings(self) -> Iterator[Recording]:
        tone = torch.sin(torch.arange(1600) * self.frequency) / 2
        yield Recording(self.key, Audio(tone, 16000), "one", "", "en", "stream", "mine", "train")

    def credits(self):
        return ""


class Tars(ListedSource):
    """Tars of ID.mp3 and ID.txt, as others write them."""

    corpus, in_place = "tars", True

    def items(self):
        for path in sorted(self.folder.glob("*.tar")):
            yield Item(path.name, path.name, is_container=True)

    def members(self, item):
        texts = {}
        with tarfile.open(self.folder / item.path) as tar:
            for member in tar:
                stem, _, extension = member.name.rpartition(".")
                if extension == "txt":
                    texts[stem] = tar.extractfile(member).read().decode()
            for member in tar.getmembers():
                stem, _, extension = member.name.rpartition(".")
                if extension == "mp3":
                    place = (member.offset_data, member.size)
                    yield Item(stem, item.path, texts[stem], stem[:1], bytes_at=place, scores={"dnsmos": len(stem)})


def write_tar(path: Path, names: list[str]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(names):
            content = io.BytesIO()
            tone = np.sin(np.arange(9600) * (0.03 + 0.002 * number + 0.0005 * len(path.stem))) / 2
            soundfile.write(content, np.stack([tone, tone / 2], axis=1), 24000, format="MP3")
            for extension, data in (("mp3", content.getvalue()), ("txt", f"text of {name}".encode())):
                member = tarfile.TarInfo(f"{name}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
