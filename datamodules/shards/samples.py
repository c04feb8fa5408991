"""One sample of a shard as checked values: json, codes and audio. Used by all readers of training and search.

Shapes: T samples of audio.
"""

import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from datamodules.shards.shards import ShardIndex, ShardReader, is_in_place
from datamodules.shards.stored_arrays import read_array
from modules.audio import read_audio, resampled
from modules.tokens import Utterance


@dataclass(frozen=True)
class Sample:
    """Content of one sample: `about` is its json; `codes` are empty for text. `text_tokens` are the ids of a text that
    is stored as these alone."""

    about: dict[str, Any]
    codes: Sequence[int]
    text_tokens: Sequence[int] | None = None

    @classmethod
    def read(cls, reader: "ShardReader | ReadsSamples", row: int, kind: str) -> "Sample":
        """Read a sample. Raises ValueError or OSError if its bytes are damaged or contain invalid values."""
        if isinstance(reader, ReadsSamples):
            return reader.sample(row)
        files = reader.read(row)
        return cls(read_about(files), read_codes(files) if kind == "tokens" else [])

    @property
    def text(self) -> str:
        return text_of(self.about)

    def utterance(self) -> Utterance:
        names = name_in(self.about, "speaker"), name_in(self.about, "language")
        return Utterance(self.text, self.codes, *names, word_times(self.about))


@runtime_checkable
class ReadsSamples(Protocol):
    """A reader of samples that are not files of a tar."""

    def sample(self, row: int) -> Sample: ...


def file_in(files: Mapping[str, Any], extension: str) -> bytes:
    """Return the file with an extension. Raises ValueError if the sample lacks it."""
    if extension not in files:
        raise ValueError(f"Expected a file .{extension} in the sample, but got {sorted(files)}.")
    return files[extension]


def read_about(files: Mapping[str, Any]) -> dict[str, Any]:
    """Return the json of a sample. Raises ValueError if it is not an object, or its `text` not a string."""
    about = json.loads(file_in(files, "json"))
    if not isinstance(about, dict):
        raise ValueError(f"Expected the json of a sample to be an object, but got {type(about).__name__}.")
    if "text" in about:
        text_of(about)
    return about


def text_of(about: Mapping[str, Any]) -> str:
    """Return the `text`. Raises ValueError if it is missing or not a string."""
    text = about.get("text")
    if not isinstance(text, str):
        raise ValueError(f"Expected `text` in the json of a sample to be a string, but got {text!r:.80}.")
    return text


def name_in(about: Mapping[str, Any], field: str) -> str:
    """Return `speaker` or `language` as text; "" if unknown. A number counts as a name."""
    return str(about.get(field) or "")


def word_times(about: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """Return the `words`, each with the second at which it ends; () if unknown. Raises ValueError for other content."""
    return _times(about, "words", "word")


def phoneme_times(about: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """Return the `phonemes`, as `word_times`. Raises ValueError for ends that descend, too."""
    times = _times(about, "phonemes", "phoneme")
    for (_, end), (name, later) in itertools.pairwise(times):
        if not end <= later:
            raise ValueError(
                f"Expected no descending ends in `phonemes` of a json, but got {name!r} at {later} after {end}."
            )
    return times


def _times(about: Mapping[str, Any], field: str, what: str) -> tuple[tuple[str, float], ...]:
    parts = about.get(field) or []
    if not isinstance(parts, list) or not all(
        isinstance(part, list) and len(part) == 2 and isinstance(part[0], str) and isinstance(part[1], int | float)
        for part in parts
    ):
        raise ValueError(
            f"Expected `{field}` in the json of a sample as [[{what}, end in seconds], ...], got {parts!r:.80}."
        )
    return tuple((name, float(end)) for name, end in parts)


def read_codes(files: Mapping[str, Any]) -> list[int]:
    """Return the codes. Raises ValueError if the array is not one row of integers."""
    codes = read_array(file_in(files, "codes.npy"))
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise ValueError(f"Expected codes as one row of integers, but got {codes.dtype} of shape {codes.shape}.")
    return codes.tolist()


def read_samples(
    index: ShardIndex, row: int, files: Mapping[str, Any], start: int = 0, stop: int | None = None
) -> np.ndarray:
    """Return (T,) float32 at the index's rate: samples `start` to `stop` (None: to the end) of a recording that
    `ShardReader.read` has read.

    Raises ValueError if the content is not audio, has another rate than the index states, or more than one channel, or
    a non-finite sample. Audio in tars of others may have any rate and channels, as when it was prepared.
    """
    content, rate = file_in(files, index.header["audio_format"]), index.header["sample_rate"]
    if is_in_place(index, row):
        samples_T = np.clip(resampled(read_audio(content), rate), -1, 1)
        if len(samples_T) != int(index.lengths[row]):
            raise ValueError(f"Expected {index.lengths[row]} samples as in the index, but got {len(samples_T)}.")
        return samples_T[start:stop]
    wave, sample_rate = read_wave(content, int(index.lengths[row]), start, stop)
    if sample_rate != rate:
        raise ValueError(f"Expected audio at {rate} Hz, but got {sample_rate} Hz.")
    return wave


def read_wave(content: bytes, num_samples: int, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, int]:
    """Return (T,) float32 and the sample rate: samples `start` to `stop` (None: to the end) of a recording.

    `num_samples` is its length in the index: a header that claims more does not allocate more memory. Raises ValueError
    if the content is not audio, has more than one channel, or a non-finite sample.
    """
    import soundfile

    stop = num_samples if stop is None else min(stop, num_samples)
    wave, sample_rate = soundfile.read(io.BytesIO(content), start=start, stop=stop, dtype="float32")
    if wave.ndim != 1 or not len(wave) or not np.isfinite(wave).all():
        raise ValueError(f"Expected one channel of finite audio from sample {start} on, but got shape {wave.shape}.")
    return wave, sample_rate
