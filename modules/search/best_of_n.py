"""Best-of-n: draw N independent samples of a prompt and let verifiers choose afterwards."""

import hashlib
from collections.abc import Generator
from dataclasses import dataclass

from modules.api import Branch, Candidate
from modules.search.protocol import Extend, Score, Trace


def candidate_seed(seed: int, prompt_key: str, index: int) -> int:
    """The seed of one candidate, in [0, 2**63): it depends on nothing else, so more candidates keep the first ones."""
    digest = hashlib.sha256(f"{seed}\n{prompt_key}\n{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def finished_candidate(branch: Branch, index: int, seed: int) -> Candidate:
    """A branch that grows no further, as a candidate: codes on the CPU, no audio, no scores yet."""
    return Candidate(
        branch.prompt.key, index, seed, branch.codes_S.detach().cpu().long(), branch.log_probability, branch.stopped
    )


@dataclass(frozen=True)
class BestOfN:
    """`num_candidates` samples of up to `max_new_tokens` tokens (the end token counts) for every prompt, all scored."""

    num_candidates: int
    max_new_tokens: int

    def __post_init__(self) -> None:
        for name in ("num_candidates", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, but got {getattr(self, name)}.")

    @property
    def name(self) -> str:
        return "best_of_n"

    def search(self, root: Branch, seed: int) -> Generator[Extend | Score, list[Branch] | None, Trace]:
        """One Extend of the root, one Score of all its children."""
        seeds = [candidate_seed(seed, root.prompt.key, index) for index in range(self.num_candidates)]
        branches = yield Extend([root], self.num_candidates, self.max_new_tokens, seeds)
        assert branches is not None, "an Extend is answered with branches"
        candidates = [
            finished_candidate(branch, index, seed)
            for index, (branch, seed) in enumerate(zip(branches, seeds, strict=True))
        ]
        yield Score(root.prompt, candidates)
        return Trace(root.prompt, candidates)
