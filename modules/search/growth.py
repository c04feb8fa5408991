"""Candidates from the branches of a sampler, and their seeds."""

import hashlib

from modules.api import Audio, Branch, Candidate
from modules.search.voices import voice_codes


def candidate_seed(seed: int, prompt_key: str, index: int | str) -> int:
    """The seed of one candidate, in [0, 2**63): it depends on nothing else, so more candidates keep the first ones.

    A branch inside a tree has a path such as "2.0.1" for its index.
    """
    digest = hashlib.sha256(f"{seed}\n{prompt_key}\n{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def finished_candidate(branch: Branch, index: int, seed: int) -> Candidate:
    """A branch that grows no further, as a candidate: codes on the CPU, no audio, no scores yet."""
    codes_S = branch.codes_S.detach().cpu().long()
    candidate = Candidate(branch.prompt.key, index, seed, codes_S, branch.log_probability, branch.stopped)
    candidate.voice_codes_S = voice_codes(branch.prompt)
    return candidate


def partial_candidate(branch: Branch, index: int, seed: int, audio: Audio | None) -> Candidate:
    """A branch that will grow, as a candidate to be judged so far; `audio` is what was decoded of its parent."""
    candidate = finished_candidate(branch, index, seed)
    candidate.audio, candidate.is_partial = audio, True
    return candidate


def require_positive(settings: object, *names: str) -> None:
    """Raises ValueError where an attribute is below 1."""
    for name in names:
        if getattr(settings, name) < 1:
            raise ValueError(f"Expected `{name}` to be at least 1, but got {getattr(settings, name)}.")
