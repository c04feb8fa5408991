"""Subtitles in the SubRip format."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from modules.frontend.alignment import TimedWord

MAX_CHARACTERS = 42  # of a line
MAX_LINES = 2
MAX_EXCESS_SECONDS = 0.1  # of a word's time beyond its sentence


@dataclass(frozen=True)
class Cue:
    """Text that is shown from `start` to `end`, in seconds; its lines are separated by line feeds."""

    text: str
    start: float
    end: float


def cues(sentences: Sequence[tuple[str, float, float, Sequence[TimedWord] | None]]) -> list[Cue]:
    """Subtitles of sentences (text, start, end, words or None), at most two lines of 42 characters each.

    All times, those of the words too, are seconds from the start of the whole audio. A longer sentence is cut between
    words, so that its lines are of similar length; words longer than a line are broken. The next cue begins where its
    first word does. Words without times (no words, or "7:30" for "seven thirty") lie between their neighbours in
    proportion to the characters. A sentence without text gives no cue.

    Raises:
        ValueError: A sentence ends before it starts, or has words outside of it.
    """
    return [cue for sentence in sentences for cue in _sentence_cues(*sentence)]


def srt(cues: Sequence[Cue]) -> str:
    """The content of a .srt file; empty without cues."""
    return "\n".join(
        f"{number}\n{_clock(cue.start)} --> {_clock(cue.end)}\n{cue.text}\n" for number, cue in enumerate(cues, 1)
    )


def _sentence_cues(text: str, start: float, end: float, words: Sequence[TimedWord] | None) -> list[Cue]:
    if not 0 <= start <= end:
        raise ValueError(f"Expected `sentences` to start at 0 or later and end after that, but got {start} to {end} s.")
    words = words or ()
    if any(word.start < start - MAX_EXCESS_SECONDS or word.end > end + MAX_EXCESS_SECONDS for word in words):
        raise ValueError(
            f"Expected the words of a sentence from {start} to {end} s to lie within it, but got "
            f"{words[0].start} to {words[-1].end} s: add the sentence's start to times from its own start."
        )
    text = " ".join(text.split())
    lines = _lines(text)
    places = _places(text, lines)[::MAX_LINES]
    shown = ["\n".join(lines[first : first + MAX_LINES]) for first in range(0, len(lines), MAX_LINES)]
    starts = [start, *_times(text, places[1:], start, end, words)]
    return [Cue(*cue) for cue in zip(shown, starts, [*starts[1:], end], strict=False)]


def _lines(text: str) -> list[str]:
    """As few lines as possible, and these as short as possible."""

    def wrapped(width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)

    longest = max(map(len, text.split()), default=1)
    num_lines = len(wrapped(MAX_CHARACTERS))
    widths = range(min(longest, MAX_CHARACTERS), MAX_CHARACTERS + 1)
    return wrapped(next(width for width in widths if len(wrapped(width)) == num_lines))


def _places(text: str, lines: Sequence[str]) -> list[int]:
    """Index in the text of the first character of each line."""
    places, end = [], 0
    for line in lines:
        places.append(text.index(line, end))
        end = places[-1] + len(line)
    return places


def _times(text: str, places: Sequence[int], start: float, end: float, words: Sequence[TimedWord]) -> list[float]:
    """Seconds at which the characters at these places are spoken."""
    tokens = list(re.finditer(r"[^\W_]+(?:['\u2019][^\W_]+)*", text))
    written = [token.group().lower().replace("\u2019", "'") for token in tokens]
    matcher = SequenceMatcher(None, written, [word.word.lower().strip("'") for word in words], autojunk=False)
    known_places, known_times = [0], [start]
    for block in matcher.get_matching_blocks():
        for offset in range(block.size):
            word, place = words[block.b + offset], tokens[block.a + offset].start()
            known_places.append(place)
            known_times.append(min(max(word.start, known_times[-1]), end))
    return np.interp(places, [*known_places, len(text)], [*known_times, end]).tolist()


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d},{rest % 1000:03d}"
