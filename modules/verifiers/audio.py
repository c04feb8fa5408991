"""Audio utilities for verifiers: caching by content, and scoring clip by clip."""

import hashlib
import logging
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from modules.api import BROKEN_INSTALLATION, Audio, Candidate, Prompt
from modules.audio import checked, resampled

logger = logging.getLogger(__name__)


def audio_hash(audio: Audio) -> str:
    """SHA-256 over the rate and the samples: equal for equal audio of any candidate."""
    digest = hashlib.sha256(str(audio.sample_rate).encode())
    digest.update(resampled(audio, audio.sample_rate).tobytes())
    return digest.hexdigest()


@dataclass
class Failures:
    """Counts the clips that a verifier could not score; warns at the first only."""

    verifier: str
    count: int = 0

    def add(self, error: Exception) -> None:
        self.count += 1
        if self.count == 1:
            logger.warning("%s could not score a clip; further failures are only counted: %s", self.verifier, error)


def failed(error: Exception) -> Exception:
    """The exception as a clip's outcome, with its frames cleared, which may hold GPU memory."""
    traceback.clear_frames(error.__traceback__)
    return error


def raise_passing(outcomes: Iterable[Any]) -> None:
    """Raise the first exception among the outcomes that is not a ValueError: it is not caused by its clip but, for
    example, by memory in use elsewhere or a driver. The caller may retry, one candidate at a time."""
    for outcome in outcomes:
        if isinstance(outcome, Exception) and not isinstance(outcome, ValueError):
            raise outcome


class ContentCache:
    """Caches the results of `compute` by the content of the audio: equal clips are computed once.

    `compute` gets the new clips in one batch. A clip that cannot be scored gives a ValueError, which is not cached. Any
    other exception that `compute` returns for a clip is raised after the others are cached (`raise_passing`). With
    `languages`, one per clip, results are cached by clip and language, and `compute(clips, language)` gets one batch
    per language.
    """

    def __init__(self, compute: Callable[..., list[Any]], size: int = 20_000) -> None:
        self.compute, self.size = compute, size
        self._kept: OrderedDict[tuple[str, ...], Any] = OrderedDict()

    def __call__(self, audios: Sequence[Audio | None], languages: Sequence[str] | None = None) -> list[Any]:
        beside = [()] * len(audios) if languages is None else [(language,) for language in languages]
        keys: list[tuple[str, ...] | Exception] = []
        clips: dict[tuple[str, ...], Audio] = {}
        for audio, language in zip(audios, beside, strict=True):
            try:
                clip = checked(audio)
                keys.append(key := (audio_hash(clip), *language))
                clips[key] = clip
            except ValueError as error:
                keys.append(error)
        found = {key: self._kept[key] for key in clips if key in self._kept}
        new = [key for key in clips if key not in found]
        for language in dict.fromkeys(key[1:] for key in new):
            own = [key for key in new if key[1:] == language]
            found.update(zip(own, self.compute([clips[key] for key in own], *language), strict=True))
        self._kept.update((key, found[key]) for key in new if not isinstance(found[key], Exception))
        while len(self._kept) > self.size:
            self._kept.popitem(last=False)
        raise_passing(found.values())
        return [key if isinstance(key, Exception) else found[key] for key in keys]


def scores_or_nan(outcomes: Sequence[Any], failures: Failures) -> torch.Tensor:
    """Convert outcomes to (N,) float64; exceptions and NaN become NaN and are counted."""
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            failures.add(outcome)
        elif outcome != outcome:
            failures.add(ValueError("Expected a finite score, but got NaN."))
    scores = [float("nan") if isinstance(outcome, Exception) else float(outcome) for outcome in outcomes]
    return torch.tensor(scores, dtype=torch.float64)


def regrouped(values: Sequence[Any], groups: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Split the values into lists with the lengths of the groups."""
    rest = iter(values)
    return [[next(rest) for _ in group] for group in groups]


class BatchVerifier:
    """Base of verifiers that score the candidates of many prompts in one batch. Children define `score_many`.

    `num_failures` counts the candidates that could not be scored.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._failures = Failures(name)

    @property
    def num_failures(self) -> int:
        return self._failures.count

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> torch.Tensor:
        """(N,) float64, as `score_many` of one prompt."""
        return self.score_many([prompt], [candidates])[0]

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[torch.Tensor]:
        raise NotImplementedError


class ClipVerifier(BatchVerifier):
    """Base of verifiers that score the audio alone; equal clips are scored once. Children define `_judge_all`: a score
    or an exception for each clip."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._scores = ContentCache(self._judge_all)

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[torch.Tensor]:
        """`score` of many prompts: all clips in one batch."""
        outcomes = self._scores([candidate.audio for group in groups for candidate in group])
        return [scores_or_nan(own, self._failures) for own in regrouped(outcomes, groups)]

    def _judge_all(self, audios: list[Audio]) -> list[float | Exception]:
        raise NotImplementedError


def in_threads(judge: Callable[[Audio], float], audios: Sequence[Audio], num_workers: int) -> list[float | Exception]:
    """Apply `judge` to the clips in `num_workers` threads; returns the exception for clips where it failed."""

    def attempt(audio: Audio) -> float | Exception:
        try:
            return float(judge(audio))
        except BROKEN_INSTALLATION:
            raise
        except Exception as error:  # noqa: BLE001 - one bad clip must not affect the others
            return failed(error)

    if num_workers == 1 or len(audios) < 2:
        return [attempt(audio) for audio in audios]
    with ThreadPoolExecutor(num_workers) as pool:
        return list(pool.map(attempt, audios))
