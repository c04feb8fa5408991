"""Spoken digit strings, composed from recordings of the ten digits. Shape letter: T audio samples."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from datamodules.sources.listed import Item, ListedSource
from datamodules.sources.source import Recording, Skipped, Source
from modules.api import Audio

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MIN_HELD_OUT_DIGITS = 4  # there are too few shorter strings to hold some out
PAUSE_SECONDS = (0.040, 0.160)  # between two digits
EDGE_SECONDS = (0.050, 0.150)  # before the first and after the last
GAIN_DECIBELS = (-3.0, 3.0)
SILENCE_DECIBELS = -50.0  # relative to the loudest frame of a recording
FRAME_SECONDS = 0.010
MAX_ATTEMPTS = 200_000


def spoken(digits: str) -> str:
    """The words of a digit string: "42" gives "four two". Raises ValueError for anything but digits."""
    if not digits.isascii() or not digits.isdigit():
        raise ValueError(f"Expected `digits` to hold the characters 0 to 9 alone, but got {digits!r}.")
    return " ".join(DIGIT_WORDS[int(digit)] for digit in digits)


def is_held_out(digits: str) -> bool:
    """Check whether a string is held out for testing: one in ten of those with at least four digits, by their hash."""
    return len(digits) >= MIN_HELD_OUT_DIGITS and int(hashlib.sha256(digits.encode()).hexdigest(), 16) % 10 == 0


def trim_silence(samples_T: Tensor, sample_rate: int) -> Tensor:
    """Remove the silence at both ends of a recording.

    Frames of 10 ms with an energy of 50 dB or more below that of the loudest count as silent; one such frame is kept at
    each end, for soft onsets. Raises ValueError if there is no sound at all.
    """
    hop = round(FRAME_SECONDS * sample_rate)
    frames = functional.pad(samples_T, (0, -samples_T.numel() % hop)).reshape(-1, hop)
    energy = frames.square().mean(dim=1)
    if not energy.numel() or energy.max() <= 0:
        raise ValueError("Expected `samples_T` to hold sound, but got silence.")
    loud = torch.nonzero(energy > energy.max() * 10 ** (SILENCE_DECIBELS / 10)).flatten()
    return samples_T[max(int(loud[0]) - 1, 0) * hop : (int(loud[-1]) + 2) * hop]


def compose(words: Sequence[Tensor], pauses: Sequence[int], gain: float) -> Tensor:
    """Concatenate silence and words in turn, times `gain`: pauses[0], words[0], pauses[1], ..., words[-1], pauses[-1].

    Args:
        words: Waveforms of any length.
        pauses: Numbers of samples of silence; one more than there are words.
        gain: Factor; reduced if the loudest sample would leave [-1, 1].
    """
    if len(pauses) != len(words) + 1:
        raise ValueError(f"Expected `pauses` to be {len(words) + 1} for {len(words)} words, but got {len(pauses)}.")
    peak = max(word.abs().max().item() for word in words)
    audio_T = words[0].new_zeros(sum(pauses) + sum(word.numel() for word in words))
    position = 0
    for pause, word in zip(pauses, words, strict=False):
        position += pause
        audio_T[position : position + word.numel()] = word * min(gain, 1 / max(peak, 1e-9))
        position += word.numel()
    return audio_T


def on_grid(pauses: Sequence[int], lengths: Sequence[int], grid: int) -> list[int]:
    """Adjust the pauses before, between and after words of these lengths, each by at most half a `grid`, so that every
    word begins at a multiple of `grid`. All in samples; a grid of 0 changes nothing."""
    if not grid:
        return list(pauses)
    moved, end = [], 0
    for pause, length in zip(pauses, lengths, strict=False):
        start = max(1, round((end + pause) / grid)) * grid
        moved.append(start - end)
        end = start + length
    return [*moved, pauses[-1]]


def spaced(words: Sequence[Tensor], noise: random.Random, sample_rate: int, grid_seconds: float) -> Tensor:
    """Compose one utterance of the words, with pauses and gain sampled from `noise`, each word beginning on the
    grid."""
    bounds = [EDGE_SECONDS, *[PAUSE_SECONDS] * (len(words) - 1), EDGE_SECONDS]
    pauses = [round((low + noise.random() * (high - low)) * sample_rate) for low, high in bounds]
    decibels = GAIN_DECIBELS[0] + noise.random() * (GAIN_DECIBELS[1] - GAIN_DECIBELS[0])
    pauses = on_grid(pauses, [word.numel() for word in words], round(grid_seconds * sample_rate))
    return compose(words, pauses, 10 ** (decibels / 20))


class DigitsSource(ListedSource):
    """Digit strings in one voice: real recorded words, compositional text.

    String number `index` (its digits, pauses and gain) is a function of (seed, split, index) and the bounds on its
    length; more strings do not change the first ones. Lengths are sampled uniformly, then digits.
    - train: strings that are not held out (`is_held_out`), possibly repeated.
    - test: held-out strings, each once.
    - hard: the same, of six to eight digits.

    Args:
        recordings: Source of the English digits, under the keys en_digits_0 to en_digits_9. Read on first use.
        num_strings: Number of strings.
        min_digits: Fewest digits of a string.
        max_digits: Most digits of a string.
        split: The set that the strings belong to.
        seed: Another seed gives other strings.
        grid_seconds: Every word begins on this grid; pauses are adjusted. With a codec's frame (0.02) the frames are
            always aligned with words in the same way, which is easier to learn for a small language model. 0 for pauses
            of any length.

    Raises (on use):
        ValueError: A digit is missing, or there are fewer than `num_strings` distinct held-out strings.
    """

    _kind = "digits"
    digits, language = "0123456789", "en"

    def __init__(
        self,
        recordings: Source,
        num_strings: int,
        min_digits: int,
        max_digits: int,
        split: Literal["train", "test", "hard"],
        seed: int = 0,
        grid_seconds: float = 0.0,
    ) -> None:
        fewest, most = {"train": (1, None), "test": (MIN_HELD_OUT_DIGITS, None), "hard": (6, 8)}[split]
        if num_strings < 1:
            raise ValueError(f"Expected `num_strings` to be at least 1, but got {num_strings}.")
        if min_digits < fewest:
            raise ValueError(f"Expected `min_digits` to be at least {fewest} for {split}, but got {min_digits}.")
        if not 0 <= grid_seconds <= EDGE_SECONDS[0]:
            raise ValueError(f"Expected `grid_seconds` in [0, {EDGE_SECONDS[0]}], but got {grid_seconds}.")
        if max_digits < min_digits or (most and max_digits > most):
            bounds = f"at least `min_digits`={min_digits}" + (f" and at most {most} for {split}" if most else "")
            raise ValueError(f"Expected `max_digits` to be {bounds}, but got {max_digits}.")
        self.digit_recordings = recordings
        self.num_strings = num_strings
        self.min_digits = min_digits
        self.max_digits = max_digits
        self.split = split
        self.seed = seed
        self.grid_seconds = grid_seconds

    def strings(self) -> Iterator[str]:
        """Yield the digit strings, in order. Reads no recording."""
        seen: set[str] = set()
        for index in range(self.num_strings):
            noise = random.Random(f"{self._kind}/{self.seed}/{self.split}/{index}")
            string = next((drawn for drawn in self._draws(noise) if drawn not in seen), None)
            if string is None:
                raise ValueError(
                    f"Expected `num_strings` to be at most the number of held-out strings of {self.min_digits} to "
                    f"{self.max_digits} digits, but got {self.num_strings}: no more found after {index}."
                )
            if self.split != "train":
                seen.add(string)
            yield string

    def items(self) -> Iterator[Item]:
        for index, string in enumerate(self.strings()):
            yield Item(self._key(index, string), text=self._text(string), split=self.split, more={"index": index})

    def key(self, item: Item) -> str:
        return item.name

    def recording(self, key: str, item: Item) -> Recording | Skipped:
        return self._recording(item.more["index"], key.rpartition("_")[2])

    def credits(self) -> str:
        return f"Digit strings, composed from recordings of single digits.\n\n{self.digit_recordings.credits()}"

    def _draws(self, noise: random.Random) -> Iterator[str]:
        """Yield strings of the split: without end for train, for a bounded number of attempts if they may run out."""
        num_lengths = self.max_digits - self.min_digits + 1
        for _ in range(MAX_ATTEMPTS):
            # Only random() is the same in every version of Python.
            length = self.min_digits + int(noise.random() * num_lengths)
            string = "".join(self.digits[int(noise.random() * len(self.digits))] for _ in range(length))
            if is_held_out(string) == (self.split != "train"):
                yield string

    def _recording(self, index: int, string: str) -> Recording:
        words = [self._words[digit] for digit in string]
        first = words[0]
        noise = random.Random(f"sound/{self.seed}/{self.split}/{index}")
        samples_T = spaced([word.audio.samples_T for word in words], noise, first.audio.sample_rate, self.grid_seconds)
        return Recording(
            key=self._key(index, string),
            audio=Audio(samples_T, first.audio.sample_rate),
            text=self._text(string),
            speaker=first.speaker,
            language=first.language,
            source=f"digit strings composed from {first.source}",
            license=first.license,
            split=self.split,
        )

    def _key(self, index: int, string: str) -> str:
        return f"digits_{self.split}_{index:05d}_{string}"

    def _text(self, string: str) -> str:
        return spoken(string)

    @cached_property
    def _words(self) -> dict[str, Recording]:
        """The recording of every digit, trimmed."""
        digit_of = {f"{self.language}_digits_{digit}": digit for digit in sorted(set(self.digits))}
        found: dict[str, Recording] = {}
        reasons = dict.fromkeys(digit_of, "not there")
        for item in self.digit_recordings.recordings():
            if item.key not in digit_of:
                continue
            if isinstance(item, Skipped):
                reasons[item.key] = item.reason
            else:
                samples_T = trim_silence(item.audio.samples_T, item.audio.sample_rate)
                found[digit_of[item.key]] = replace(item, audio=Audio(samples_T, item.audio.sample_rate))
            if len(found) == len(digit_of):
                break
        if missing := [f"{key} ({reasons[key]})" for key, digit in digit_of.items() if digit not in found]:
            raise ValueError(f"Expected `recordings` to give the digits of one language, but got none of {missing}.")
        if len(rates := {word.audio.sample_rate for word in found.values()}) > 1:
            raise ValueError(f"Expected `recordings` to share one sample rate, but got {sorted(rates)}.")
        return found


class NumeralsSource(DigitsSource):
    """Digit strings in the voice of any language, written in figures: "4 2" is said "four two" or "quatre deux", so
    that the text does not say who speaks. Strings, pauses and gain are alike in all languages.

    Args:
        recordings: Gives the digits under keys such as fr_digits_4. Read on first use, until the last digit is found.
        language: The first part of the keys.
        num_strings: How many strings.
        min_digits: Fewest digits of a string.
        max_digits: Most digits of a string.
        split: train or test, as in DigitsSource.
        digits: Those that strings are made of. The Spanish zero of the Asterisk prompts has no certain transcript.
        seed: Another seed gives other strings.
        grid_seconds: Every word begins on this grid, the codec's frame; 0 for pauses of any length.

    Raises (on use):
        ValueError: A digit is missing, or there are fewer than `num_strings` distinct held-out strings.
    """

    _kind = "numerals"

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
        super().__init__(recordings, num_strings, min_digits, max_digits, split, seed, grid_seconds)
        if not digits or set(digits) - set("0123456789"):
            raise ValueError(f"Expected `digits` to hold characters from 0 to 9, but got {digits!r}.")
        self.language, self.digits = language, digits

    def _key(self, index: int, string: str) -> str:
        return f"{self.language}_numerals_{self.split}_{index:05d}_{string}"

    def _text(self, string: str) -> str:
        return " ".join(string)
