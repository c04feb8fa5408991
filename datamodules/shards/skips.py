"""Unusable samples: skipped, and counted with key and reason over the loader's worker processes.

A plan records what it skips (SkipNotes, in the reading process), the notes are sent with the batch, and the loader sums
them (SkipCount, in the training process). callbacks/skipped_samples.py sums over ranks and reports.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

import numpy as np

from modules.audio import message_of

log = logging.getLogger(__name__)

Made = TypeVar("Made")
MAX_IN_A_ROW = 100  # unusable samples without a usable one between them: the data or a setting is wrong, not one file
GOLDEN = 0.618  # distance from a sample to the next replacement, as a fraction of all samples
MAX_WARNINGS = 10  # for single samples; then one in a thousand
MAX_KEYS = 1_000_000  # remembered by a count


class TooManySkipped(ValueError):
    """Raised when too many samples in a row are unusable."""


@dataclass(frozen=True)
class Skip:
    """A skipped sample, or `number` of them that have one reason and no key each."""

    key: str
    reason: str
    number: int = 1


class SkipNotes:
    """Samples that a plan has skipped in this process and no loader has taken yet.

    Args:
        place: Location of the samples, for messages.
        num_samples: Number of samples: if fewer than MAX_IN_A_ROW, a single pass shows that none is usable.
    """

    def __init__(self, place: str, num_samples: int) -> None:
        self.place, self.max_in_a_row = place, min(num_samples, MAX_IN_A_ROW)
        self.number = 0
        self._notes: list[Skip] = []
        self._keys_in_a_row: set[str] = set()

    def attempt(self, key: str, make: Callable[[], Made]) -> Made | None:
        """Return the result of `make`; None, with a note, if it raises anything.

        Raises TooManySkipped if `max_in_a_row` different samples have failed without a usable one between them.
        """
        try:
            made = make()
        except Exception as error:  # files may contain anything
            reason = message_of(error)
            if not isinstance(error, ValueError):
                reason = f"{type(error).__name__}: {reason}"
            self.number += 1
            self._notes.append(Skip(key, reason))
            self._keys_in_a_row.add(key)
            if len(self._keys_in_a_row) >= self.max_in_a_row:
                raise TooManySkipped(
                    f"Expected usable samples in `{self.place}`, but {len(self._keys_in_a_row)} in a row could not be "
                    f"used. The last is {key!r}: {reason}"
                ) from error
            return None
        self._keys_in_a_row.clear()
        return made

    def take(self) -> list[Skip]:
        """Return and clear the notes since the last call."""
        notes, self._notes = self._notes, []
        return notes


def replacements(number: int, num_samples: int) -> Iterator[int]:
    """Yield every sample once, `number` last, each far from the one before, because neighbours of an unusable sample
    are often in the same damaged shard. A pure function, so every rank and a resumed run find the same."""
    stride = next(step for step in count(int(num_samples * GOLDEN) or 1) if math.gcd(step, num_samples) == 1)
    return ((number + step * stride) % num_samples for step in range(1, num_samples + 1))


def spread(samples: np.ndarray) -> Iterator[int]:
    """Yield at most MAX_IN_A_ROW of `samples`, evenly spread."""
    return (int(samples[place]) for place in np.unique(np.linspace(0, len(samples) - 1, MAX_IN_A_ROW).astype(int)))


@dataclass
class SkipCount:
    """Skipped samples of one loader: their number, and the reason by key (of the first MAX_KEYS keys)."""

    number: int = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, skips: Sequence[Skip]) -> None:
        for skip in skips:
            self.number += skip.number
            if len(self.reasons) < MAX_KEYS:
                self.reasons.setdefault(skip.key, skip.reason)
            if self.number <= MAX_WARNINGS or skip.number > 1 or self.number % 1000 == 0:
                log.warning("Skipped sample %r (%d so far): %s", skip.key, self.number, skip.reason)
