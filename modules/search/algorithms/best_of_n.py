"""Best-of-n: sample N independent candidates per prompt; verifiers select afterwards."""

from dataclasses import dataclass

from modules.api import Branch
from modules.search.growth import candidate_seed, finished_candidate, require_positive
from modules.search.protocol import Drop, Extend, Score, Search, SearchWork, Span, Trace


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

    def estimate(self, num_codes: int) -> SearchWork:
        whole = (Span(self.num_candidates, 0, min(num_codes, self.max_new_tokens)),)
        return SearchWork(whole[0].stop, self.num_candidates, whole, whole)

    def search(self, root: Branch, seed: int) -> Search:
        """One Extend of the root, one Score of all its children."""
        seeds = [candidate_seed(seed, root.prompt.key, index) for index in range(self.num_candidates)]
        branches = yield Extend([root], self.num_candidates, self.max_new_tokens, seeds)
        assert branches is not None, "an Extend is answered with branches"
        candidates = [
            finished_candidate(branch, index, seed)
            for index, (branch, seed) in enumerate(zip(branches, seeds, strict=True))
        ]
        yield Drop(branches)  # free the memory of unfinished branches for the verifiers
        yield Score(root.prompt, candidates)
        return Trace(root.prompt, candidates)
