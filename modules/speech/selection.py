"""Which candidate is spoken, and why. A runaway, silent or empty one is taken only if there is no other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modules.api import Candidate, Prompt, Transcribes, Verifier
from modules.speech.trimming import is_silent

MIN_SECONDS_PER_CHARACTER = 0.02
UNUSABLE = {"ran away", "empty", "not finite", "silent", "too short for its text"}  # worse than any misheard word


@dataclass(frozen=True)
class Choice:
    """The chosen candidate by position, the faults that it has itself, and the reason in words."""

    index: int
    faults: tuple[str, ...]
    reason: str


def faults_of(prompt: Prompt, candidate: Candidate) -> tuple[str, ...]:
    """What makes a decoded candidate unusable, as UNUSABLE lists it."""
    found = [] if candidate.stopped else ["ran away"]
    if candidate.audio is None or not candidate.num_codes:
        return (*found, "empty")
    if not bool(candidate.audio.samples_T.isfinite().all()):
        return (*found, "not finite")
    if is_silent(candidate.audio):
        found.append("silent")
    elif candidate.audio.seconds < MIN_SECONDS_PER_CHARACTER * len(prompt.text):
        found.append("too short for its text")
    return tuple(found)


def choose(
    prompt: Prompt, candidates: Sequence[Candidate], faults: Sequence[tuple[str, ...]], selectors: Sequence[Verifier]
) -> Choice:
    """Choose by fewest faults, unusable ones first, then by the selectors' scores in their order (NaN last), then by
    likelihood per token."""

    def rank(place: int) -> tuple[float, ...]:
        one = candidates[place]
        scores = [one.scores.get(selector.facts.name, math.nan) for selector in selectors]
        known = [-math.inf if math.isnan(score) else score for score in scores]
        num_tokens = one.num_codes + one.num_written_tokens + 1
        num_unusable = len(UNUSABLE.intersection(faults[place]))
        return (-num_unusable, -len(faults[place]), *known, one.log_probability / num_tokens)

    best = max(range(len(candidates)), key=rank)
    return Choice(best, tuple(faults[best]), _reason(prompt, candidates, faults, selectors, best))


def _reason(
    prompt: Prompt,
    candidates: Sequence[Candidate],
    faults: Sequence[tuple[str, ...]],
    selectors: Sequence[Verifier],
    best: int,
) -> str:
    parts = []
    for selector in selectors:
        name, score = selector.facts.name, candidates[best].scores.get(selector.facts.name, math.nan)
        if math.isnan(score):
            parts.append(f"{name} could not score it")
        elif isinstance(selector, Transcribes):
            parts.append(f"{name} {score:.2f}, heard {selector.hypotheses(prompt, [candidates[best]])[0].strip()!r}")
        else:
            parts.append(f"{name} {score:.2f}")
    number = len(candidates)
    if number > 1 and all(faults):
        kinds = sorted({one for found in faults for one in found})
        return ", ".join([f"all {number} draws rejected ({', '.join(kinds)}), number {best + 1} kept", *parts])
    said = [f"number {best + 1} of {number}" if number > 1 else "one sample", *parts]
    others = [found for place, found in enumerate(faults) if found and place != best]
    if others:
        kinds = sorted({one for found in others for one in found})
        said.append(f"{len(others)} of the others rejected ({', '.join(kinds)})")
    if faults[best]:
        said.append(f"this one {' and '.join(faults[best])}")
    return ", ".join(said)
