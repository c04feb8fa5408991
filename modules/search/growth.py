"""Functions that make candidates from the branches of a sampler, and their seeds."""

import hashlib

from modules.api import Audio, Branch, Candidate
from modules.search.voices import voice_codes


def candidate_seed(seed: int, prompt_key: str, index: int | str) -> int:
    """The seed of one candidate, in [0, 2**63). It depends on the arguments only, so adding candidates keeps the first.

    The index of a branch inside a tree is its path, such as "2.0.1".
    """
    digest = hashlib.sha256(f"{seed}\n{prompt_key}\n{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def finished_candidate(branch: Branch, index: int, seed: int) -> Candidate:
    """Convert a finished branch to a candidate: codes on the CPU, no audio, no scores yet."""
    codes_S = branch.codes_S.detach().cpu().long()
    candidate = Candidate(branch.prompt.key, index, seed, codes_S, branch.log_probability, branch.stopped)
    candidate.voice_codes_S = voice_codes(branch.prompt)
    candidate.num_written_tokens = branch.num_tokens - codes_S.numel()
    return candidate


def partial_candidate(branch: Branch, index: int, seed: int, audio: Audio | None) -> Candidate:
    """Convert an unfinished branch to a partial candidate; `audio` is the decoded audio of its parent."""
    candidate = finished_candidate(branch, index, seed)
    candidate.audio, candidate.is_partial = audio, True
    return candidate


def require_positive(settings: object, *names: str) -> None:
    """Raise ValueError if an attribute is below 1."""
    for name in names:
        if getattr(settings, name) < 1:
            raise ValueError(f"Expected `{name}` to be at least 1, but got {getattr(settings, name)}.")
