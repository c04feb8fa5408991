"""Interface of published test sets: rows with text and recording, and their conversion to Prompts.

Shapes: T audio samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from datamodules.shards.shards import by_hash
from datamodules.sources.listed import read_recording
from datamodules.sources.source import Skipped
from modules.api import Audio, Prompt
from modules.audio import resampled
from modules.tokens import Utterance


@dataclass(frozen=True)
class PromptRow:
    """One line of a test set, with its audio not read yet.

    `voice_text` is the transcript of `recording`; empty if the recording is the beginning of `text` itself, to be
    continued. `seconds`: duration of the recording to use, from its start; None uses all.
    """

    key: str
    text: str
    recording: Path
    voice_text: str = ""
    language: str = "en"
    speaker: str = ""
    emotion: str = ""
    seconds: float | None = None


@runtime_checkable
class PublishedSet(Protocol):
    """One published layout. `rows` reads only headers of audio files.

    Raises FileNotFoundError if the data is absent (with its address), ValueError if nothing is usable; a single bad
    line gives Skipped.
    """

    def rows(self) -> list[PromptRow | Skipped]: ...


def absent(name: str, expected: str, got: Path, where: str) -> FileNotFoundError:
    """Error for missing data. `where`: its address and licence."""
    return FileNotFoundError(f"Expected `folder` to hold {name} ({expected}), but got no {got}. Get it from {where}.")


def drawn(rows: Sequence[PromptRow | Skipped], number: int) -> list[PromptRow | Skipped]:
    """Choose `number` rows, all for 0, in the order of the test set: by the hash of their keys, so that the choice is
    not biased to the first speakers or easy items, and a larger number includes a smaller one."""
    if not number:
        return list(rows)
    if number > len(rows):
        raise ValueError(f"Expected `num_prompts` of at most {len(rows)}, but got {number}.")
    return [rows[place] for place in sorted(by_hash([row.key for row in rows])[:number])]


def read_prompt(row: PromptRow, sample_rate: int) -> Prompt | Skipped:
    """Read a row's recording, mono at `sample_rate` Hz. Returns Skipped if it cannot be read or is too short."""
    try:
        audio = read_recording(row.recording)
    except (OSError, RuntimeError, ValueError) as error:  # soundfile raises RuntimeErrors
        return Skipped(row.key, " ".join(f"unreadable {row.recording.name}: {error}".split()))
    samples_T = audio.samples_T
    if row.seconds is not None:
        samples_T = samples_T[: round(row.seconds * audio.sample_rate)]
        if samples_T.numel() < round(row.seconds * audio.sample_rate):
            return Skipped(row.key, f"{row.recording.name} is shorter than {row.seconds:g} s")
    samples_T = torch.from_numpy(resampled(Audio(samples_T, audio.sample_rate), sample_rate))
    voice = Utterance(row.voice_text, speaker=row.speaker, language=row.language)
    return Prompt(row.key, row.text, row.language, row.speaker, Audio(samples_T, sample_rate), voice, row.emotion)
