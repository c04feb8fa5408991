"""Health: cheap checks for degenerate candidates (loops, silence, far too long or too short for the text)."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from modules.api import Candidate, Prompt, VerifierFacts
from modules.settings import constructor_settings

FRAME_SECONDS = 0.02


def longest_loop(codes_S: np.ndarray, max_period: int) -> int:
    """Length in codes of the longest periodic stretch: code i equals code i - p, for one p up to `max_period`. The
    length includes the first period; a stretch must contain the period at least twice."""
    longest = 0
    for period in range(1, min(max_period, len(codes_S) // 2) + 1):
        equal = np.flatnonzero(np.diff(np.concatenate([[0], codes_S[period:] == codes_S[:-period], [0]])))
        runs = equal[1::2] - equal[::2]
        best = int(runs.max()) if runs.size else 0
        if best >= period:
            longest = max(longest, best + period)
    return longest


def longest_silence(samples_T: np.ndarray, sample_rate: int, threshold_db: float) -> float:
    """Seconds of the longest stretch of 20 ms frames whose level is below `threshold_db` (full scale is 0 dB)."""
    frame = max(1, round(FRAME_SECONDS * sample_rate))
    frames = samples_T[: len(samples_T) // frame * frame].reshape(-1, frame)
    quiet = np.sqrt((frames.astype(np.float64) ** 2).mean(axis=1)) < 10 ** (threshold_db / 20)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet, [0]])))
    return float((edges[1::2] - edges[::2]).max(initial=0)) * frame / sample_rate


class Health:
    """Fraction of four checks that a candidate passes: 1.0 is healthy. "too short" is not checked for partial audio.

    Args:
        max_loop_seconds: Longest stretch of codes that repeats with a period of at most `max_loop_period` codes.
        max_loop_period: Maximum period in codes; longer loops are not detected.
        max_silence_seconds: Longest allowed stretch of silence.
        silence_db: Level below which audio counts as silence.
        max_seconds_per_character: With `slack_seconds`, the longest allowed audio for a text.
        min_seconds_per_character: The shortest.
        slack_seconds: Allowed for any text in addition.
        name: Column name in tables.
    """

    def __init__(
        self,
        max_loop_seconds: float = 1.0,
        max_loop_period: int = 25,
        max_silence_seconds: float = 1.5,
        silence_db: float = -50.0,
        max_seconds_per_character: float = 0.25,
        min_seconds_per_character: float = 0.02,
        slack_seconds: float = 1.0,
        name: str = "health",
    ) -> None:
        if max_seconds_per_character < min_seconds_per_character:
            raise ValueError(
                f"Expected `max_seconds_per_character` to be at least {min_seconds_per_character}, "
                f"but got {max_seconds_per_character}."
            )
        self.max_loop_seconds, self.max_loop_period = max_loop_seconds, max_loop_period
        self.max_silence_seconds, self.silence_db = max_silence_seconds, silence_db
        self.max_seconds_per_character = max_seconds_per_character
        self.min_seconds_per_character = min_seconds_per_character
        self.slack_seconds = slack_seconds
        self.name = name

    @cached_property
    def facts(self) -> VerifierFacts:
        return VerifierFacts(
            name=self.name,
            model_hash="health",
            settings=constructor_settings(self),
            families=frozenset({"health"}),
            worst_score=0.0,
            best_score=1.0,
            needs_text=True,
            needs_reference=False,
            judges_partial=True,
        )

    def problems(self, prompt: Prompt, candidate: Candidate) -> list[str]:
        """Names of failed checks: "loop", "silence", "too long", "too short". Raises ValueError without audio."""
        if candidate.audio is None or candidate.num_codes == 0:
            raise ValueError("Expected a candidate with codes and audio, but got none.")
        seconds, found = candidate.audio.seconds, []
        num_codes_a_second = candidate.num_codes / seconds if seconds else 1.0
        loop = longest_loop(candidate.codes_S.numpy(), self.max_loop_period)
        if loop / num_codes_a_second > self.max_loop_seconds:
            found.append("loop")
        samples_T = candidate.audio.samples_T.detach().float().cpu().numpy()
        if longest_silence(samples_T, candidate.audio.sample_rate, self.silence_db) > self.max_silence_seconds:
            found.append("silence")
        num_characters = len(prompt.text.strip())
        if seconds > self.max_seconds_per_character * num_characters + self.slack_seconds:
            found.append("too long")
        if not candidate.is_partial and seconds < self.min_seconds_per_character * num_characters:
            found.append("too short")
        return found

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        """(N,) float64 in [0, 1]: 1 - (number of problems) / 4; NaN without audio."""
        scores = torch.full((len(candidates),), float("nan"), dtype=torch.float64)
        for place, candidate in enumerate(candidates):
            if candidate.audio is not None and candidate.num_codes:
                scores[place] = 1 - len(self.problems(prompt, candidate)) / 4
        return scores

    def flops(self, seconds: float) -> float:
        """A few operations per sample, not counted."""
        return 0.0
