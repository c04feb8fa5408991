"""Best-of-n: draw N independent samples of a prompt and let verifiers choose afterwards."""

import hashlib
from dataclasses import dataclass

from modules.api import Audio, Branch, Candidate
from modules.search.protocol import Drop, Estimate, Extend, Score, Search, Span, Trace
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


@dataclass(frozen=True)
class BestOfN:
    """`num_candidates` samples of up to `max_new_tokens` tokens (the end token counts) for every prompt, all scored."""

    num_candidates: int
    max_new_tokens: int

    def __post_init__(self) -> None:
        require_positive(self, "num_candidates", "max_new_tokens")

    @property
    def name(self) -> str:
        return "best_of_n"

    @property
    def verifier_names(self) -> tuple[str, ...]:
        return ()

    @property
    def independent_candidates(self) -> bool:
        return True

    def estimate(self, num_codes: int) -> Estimate:
        whole = (Span(self.num_candidates, 0, min(num_codes, self.max_new_tokens)),)
        return Estimate(whole[0].stop, self.num_candidates, whole, whole)

    def search(self, root: Branch, seed: int) -> Search:
        """One Extend of the root, one Score of all its children."""
        seeds = [candidate_seed(seed, root.prompt.key, index) for index in range(self.num_candidates)]
        branches = yield Extend([root], self.num_candidates, self.max_new_tokens, seeds)
        assert branches is not None, "an Extend is answered with branches"
        candidates = [
            finished_candidate(branch, index, seed)
            for index, (branch, seed) in enumerate(zip(branches, seeds, strict=True))
        ]
        yield Drop(branches)  # those that never ended hold memory that verifiers may want
        yield Score(root.prompt, candidates)
        return Trace(root.prompt, candidates)
