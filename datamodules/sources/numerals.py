"""NumeralsSource: digit strings in any language, with texts in figures, which do not reveal the speaker.

Shape letter: T audio samples.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from datamodules.sources.digits import (
    EDGE_SECONDS,
    MAX_ATTEMPTS,
    MIN_HELD_OUT_DIGITS,
    is_held_out,
    spaced,
    trim_silence,
)
from datamodules.sources.source import Recording, Skipped, Source
from modules.api import Audio


class NumeralsSource:
    """Digit strings in one voice: "4 2" is pronounced "four two" or "quatre deux".

    Strings, pauses and gain are a function of (seed, split, index), as in DigitsSource, and the same in all languages.

    Args:
        recordings: Source of the digits under keys such as fr_digits_4. Read on first use, until the last digit is
            found.
        language: The first part of the keys.
        num_strings: Number of strings.
        min_digits: Fewest digits of a string.
        max_digits: Most digits of a string.
        split: train: strings that are not held out, possibly repeated. test: held-out strings, each once.
        digits: Digits to use. The Spanish zero of the Asterisk prompts has no reliable transcript.
        seed: Another seed gives other strings.
        grid_seconds: Every word begins on this grid, the codec's frame; 0 for pauses of any length.

    Raises (on use):
        ValueError: A digit is missing, or there are fewer than `num_strings` distinct held-out strings.
    """

    def __init__(
        self,
        recordings: Source,
        language: str,
        num_strings: int,
        min_digits: int,
        max_digits: int,
        split: Literal["train", "test"],
        digits: str = "123456789",
        seed: int = 0,
        grid_seconds: float = 0.02,
    ) -> None:
        fewest = MIN_HELD_OUT_DIGITS if split == "test" else 1
        if num_strings < 1:
            raise ValueError(f"Expected `num_strings` to be at least 1, but got {num_strings}.")
        if not fewest <= min_digits <= max_digits:
            raise ValueError(
                f"Expected `min_digits` from {fewest} to `max_digits`={max_digits} for {split}, but got {min_digits}."
            )
        if not digits or set(digits) - set("0123456789"):
            raise ValueError(f"Expected `digits` to hold characters from 0 to 9, but got {digits!r}.")
        if not 0 <= grid_seconds <= EDGE_SECONDS[0]:
            raise ValueError(f"Expected `grid_seconds` in [0, {EDGE_SECONDS[0]}], but got {grid_seconds}.")
        self.digit_recordings, self.language = recordings, language
        self.num_strings, self.min_digits, self.max_digits = num_strings, min_digits, max_digits
        self.split, self.digits, self.seed, self.grid_seconds = split, digits, seed, grid_seconds
        self._words: dict[str, Recording] = {}

    @property
    def num_recordings(self) -> int:
        return self.num_strings

    def strings(self) -> Iterator[str]:
        """Yield the digit strings, in order. Reads no recording."""
        seen: set[str] = set()
        for index in range(self.num_strings):
            noise = random.Random(f"numerals/{self.seed}/{self.split}/{index}")
            string = next((drawn for drawn in self._draws(noise) if drawn not in seen), None)
            if string is None:
                raise ValueError(
                    f"Expected `num_strings` to be at most the number of held-out strings of {self.min_digits} to "
                    f"{self.max_digits} digits, but got {self.num_strings}: no more found after {index}."
                )
            if self.split == "test":
                seen.add(string)
            yield string

    def recordings(self) -> Iterator[Recording | Skipped]:
        for index, string in enumerate(self.strings()):
            yield self._recording(index, string)

    def credits(self) -> str:
        return f"Digit strings, composed from recordings of single digits.\n\n{self.digit_recordings.credits()}"

    def _draws(self, noise: random.Random) -> Iterator[str]:
        num_lengths = self.max_digits - self.min_digits + 1
        for _ in range(MAX_ATTEMPTS):
            length = self.min_digits + int(noise.random() * num_lengths)
            string = "".join(self.digits[int(noise.random() * len(self.digits))] for _ in range(length))
            if is_held_out(string) == (self.split == "test"):
                yield string

    def _recording(self, index: int, string: str) -> Recording:
        words = [self._load()[f"{self.language}_digits_{digit}"] for digit in string]
        first = words[0]
        noise = random.Random(f"sound/{self.seed}/{self.split}/{index}")
        samples_T = spaced([word.audio.samples_T for word in words], noise, first.audio.sample_rate, self.grid_seconds)
        return Recording(
            key=f"{self.language}_numerals_{self.split}_{index:05d}_{string}",
            audio=Audio(samples_T, first.audio.sample_rate),
            text=" ".join(string),
            speaker=first.speaker,
            language=self.language,
            source=f"digit strings composed from {first.source}",
            license=first.license,
            split=self.split,
        )

    def _load(self) -> dict[str, Recording]:
        """Return every digit by its key, trimmed; read once."""
        if self._words:
            return self._words
        keys = [f"{self.language}_digits_{digit}" for digit in sorted(set(self.digits))]
        found: dict[str, Recording] = {}
        reasons = dict.fromkeys(keys, "not there")
        for item in self.digit_recordings.recordings():
            if item.key not in reasons:
                continue
            if isinstance(item, Skipped):
                reasons[item.key] = item.reason
            else:
                samples_T = trim_silence(item.audio.samples_T, item.audio.sample_rate)
                found[item.key] = replace(item, audio=Audio(samples_T, item.audio.sample_rate))
            if len(found) == len(keys):
                break
        if missing := [f"{key} ({reasons[key]})" for key in keys if key not in found]:
            raise ValueError(f"Expected `recordings` to give the digits of one language, but got none of {missing}.")
        if len(rates := {word.audio.sample_rate for word in found.values()}) > 1:
            raise ValueError(f"Expected `recordings` to share one sample rate, but got {sorted(rates)}.")
        self._words = found
        return found
