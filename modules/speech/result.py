"""Speech: what was spoken, sentence by sentence, and its files. T audio samples, S codes."""

import io
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from modules.api import Audio
from modules.atomic_file import write_whole
from modules.audio import SYNTHETIC
from modules.frontend.alignment import TimedWord

GAP_SECONDS = 0.25  # between two sentences
FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}


@dataclass(frozen=True)
class SpokenSentence:
    """One sentence: its text as typed and as given to the model, audio, codes, and how it was chosen (JSON values)."""

    written: str
    text: str
    audio: Audio
    codes_S: Tensor
    about: dict[str, Any]
    words: tuple[TimedWord, ...] | None = None
    unaligned: str = ""  # why `words` are missing
    is_resumed: bool = False  # read from a part file

    def as_bytes(self) -> bytes:
        """The sentence without its words, to be read by `from_bytes`."""
        texts = json.dumps({"written": self.written, "text": self.text, "about": self.about})
        stream = io.BytesIO()
        samples_T, rate = self.audio.samples_T.numpy(), self.audio.sample_rate
        np.savez(stream, samples_T=samples_T, sample_rate=rate, codes_S=self.codes_S.numpy(), texts=texts)
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "SpokenSentence":
        """Raises ValueError for damaged content."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                texts = json.loads(str(arrays["texts"]))
                audio = Audio(torch.from_numpy(arrays["samples_T"]), int(arrays["sample_rate"]))
                codes_S = torch.from_numpy(arrays["codes_S"])
            return cls(texts["written"], texts["text"], audio, codes_S, texts["about"])
        except Exception as error:  # whatever numpy and zipfile raise for damaged bytes
            raise ValueError(f"Expected a spoken sentence, but got damaged bytes: {error!r}.") from error


@dataclass
class Timeline:
    """Places sentences and pauses one after the other. `records` are the sentences placed so far, as JSON values;
    `timed` has their texts, times in seconds and words, for subtitles; `unaligned`: why words have no times."""

    sample_rate: int
    num_samples: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)
    timed: list[tuple[str, float, float, tuple[TimedWord, ...] | None]] = field(default_factory=list)
    unaligned: list[str] = field(default_factory=list)
    _follows_sentence: bool = False

    def place(self, one: SpokenSentence | float) -> list[Tensor]:
        """Return the samples to append for a sentence, or for a pause in seconds, which replaces the usual gap."""
        if not isinstance(one, SpokenSentence):
            self._follows_sentence = False
            return [self._appended(torch.zeros(round(one * self.sample_rate)))]
        gap = self.gap()
        start = self.num_samples / self.sample_rate
        samples = [*gap, self._appended(one.audio.samples_T)]
        end, words = self.num_samples / self.sample_rate, None
        if one.words is not None:
            words = tuple(
                TimedWord(word.word, round(start + word.start, 3), round(start + word.end, 3)) for word in one.words
            )
        self.timed.append((one.written, start, end, words))
        self.unaligned += [one.unaligned] if one.unaligned else []
        plain = None if words is None else [asdict(word) for word in words]
        times = {"start": round(start, 3), "end": round(end, 3)}
        self.records.append({"written": one.written, "text": one.text, **times, **one.about, "words": plain})
        return samples

    def gap(self) -> list[Tensor]:
        """The samples between the last sentence, if there is one, and a sentence that follows now."""
        is_needed, self._follows_sentence = self._follows_sentence, True
        return [self._appended(torch.zeros(round(GAP_SECONDS * self.sample_rate)))] if is_needed else []

    def _appended(self, samples_T: Tensor) -> Tensor:
        self.num_samples += samples_T.numel()
        return samples_T


@dataclass(frozen=True)
class Speech:
    """The speech of one text: `audio`, and `record`, which says how it was made (JSON values)."""

    audio: Audio
    record: dict[str, Any]

    def save(self, path: Path | str) -> Path:
        """Write wav, flac, ogg or mp3 by the suffix, marked as synthetic, and PATH.json beside it. Returns the path.

        Raises ValueError where another file has one of the names.
        """
        path = Path(path)
        check_free(path)
        with SpeechFile(path, self.audio.sample_rate) as file:
            file.append([self.audio.samples_T])
        write_record(self.record, path.with_suffix(".json"))
        return path


def check_free(path: Path) -> None:
    """Raise ValueError if a sound file of this name, or its json, is there and not of an earlier call."""
    record = path.with_suffix(".json")
    is_ours = record.is_file() and b'"synthetic": true' in record.read_bytes()[:100]
    for other in (path, record):
        if other.is_file() and not is_ours:
            raise ValueError(f"Expected a name that is free, but another file is at {other}: choose another one.")


def write_record(record: dict[str, Any], path: Path) -> None:
    write_whole(path, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def format_of(path: Path) -> str:
    """libsndfile's format of a file name. Raises ValueError for another suffix."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"Expected an output file that ends in {', '.join(FORMATS)}, but got `{path}`.")
    return FORMATS[path.suffix.lower()]


class SpeechFile:
    """An audio file that grows (16 bit, marked as synthetic); it has its name once it is complete."""

    def __init__(self, path: Path, sample_rate: int) -> None:
        self.path, self.sample_rate, self.format = path, sample_rate, format_of(path)

    def __enter__(self) -> Self:
        import soundfile

        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".tmp")
        os.close(handle)
        self._temporary = Path(name)
        self._file = soundfile.SoundFile(name, "w", self.sample_rate, 1, format=self.format)
        self._file.comment = SYNTHETIC
        return self

    def append(self, pieces: Iterable[Tensor]) -> None:
        """Append samples; beyond [-1, 1] they are clipped. Raises ValueError for NaN or infinity."""
        for samples_T in pieces:
            if not bool(samples_T.isfinite().all()):
                raise ValueError("Expected the codec to decode finite audio, but got NaN or infinity.")
            for part_T in samples_T.clamp(-1, 1).split(self.sample_rate):  # libsndfile may crash on long Vorbis writes
                self._file.write(part_T.numpy())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            os.chmod(self._temporary, 0o644)
            os.replace(self._temporary, self.path)
        else:
            self._temporary.unlink(missing_ok=True)
