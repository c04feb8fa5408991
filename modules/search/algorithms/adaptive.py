"""Adaptive sampling: sample until the expected gain is below the price; discard degenerate candidates early."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from modules.api import Branch, Candidate
from modules.search.algorithms.beams import scored
from modules.search.growth import candidate_seed, finished_candidate, partial_candidate, require_positive
from modules.search.protocol import Drop, Extend, Request, Score, Search, SearchWork, Span


def expected_gain(scores: Sequence[float], prior_spread: float) -> float:
    """Expected improvement of the best score by one more candidate (Mockus 1974).

    The next score is modelled as normal with the mean of `scores` and a variance that includes one pseudo-observation
    of `prior_spread`, so that equal scores do not imply zero variance. NaN scores are ignored; infinity without scores.
    """
    known_N = np.array([score for score in scores if not math.isnan(score)])
    if not known_N.size:
        return math.inf
    squares = float(((known_N - known_N.mean()) ** 2).sum())
    spread = math.sqrt((squares + prior_spread**2) / known_N.size)
    if spread == 0:
        return 0.0
    z = float(known_N.mean() - known_N.max()) / spread
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return spread * (z * 0.5 * math.erfc(-z / math.sqrt(2)) + density)


@dataclass(frozen=True)
class Adaptive:
    """Sample rounds of `round_size` candidates until the expected gain is below `price` or the budget is used up.

    With `health`, that verifier scores the partial candidates every `block_tokens` tokens; those below `min_health`
    (a loop, silence, far too long for the text) are discarded. If none survives, the first discarded candidate is
    returned, as a runaway.

    Args:
        reward: Name of the selector whose scores are estimated.
        max_candidates: The budget.
        max_new_tokens: Maximum length of a candidate.
        price: Minimum expected gain in reward for which another candidate is sampled.
        round_size: Number of candidates sampled together.
        prior_spread: Prior standard deviation of the reward.
        perfect_score: Highest possible reward; reaching it ends the search. 1.0 for a transcript.
        health: Name of a selector that judges partial audio, such as "health".
        min_health: Candidates with a lower health score are discarded.
        block_tokens: Tokens between two health checks.
    """

    reward: str
    max_candidates: int
    max_new_tokens: int
    price: float = 0.01
    round_size: int = 4
    prior_spread: float = 0.1
    perfect_score: float | None = None
    health: str | None = None
    min_health: float = 1.0
    block_tokens: int = 50

    def __post_init__(self) -> None:
        require_positive(self, "max_candidates", "max_new_tokens", "round_size", "block_tokens")
        for name in ("price", "prior_spread"):
            if getattr(self, name) < 0:
                raise ValueError(f"Expected `{name}` to be at least 0, but got {getattr(self, name)}.")

    @property
    def name(self) -> str:
        return "adaptive"

    @property
    def verifier_names(self) -> tuple[str, ...]:
        return (self.reward,) if self.health is None else (self.reward, self.health)

    @property
    def independent_candidates(self) -> bool:
        return False  # the number of candidates depends on their scores

    def estimate(self, num_codes: int) -> SearchWork:
        """Work for the whole budget without discarded candidates: an upper bound."""
        num_codes = min(num_codes, self.max_new_tokens)
        whole = Span(self.max_candidates, 0, num_codes)
        if self.health is None:
            return SearchWork(num_codes, self.max_candidates, (whole,), (whole,))
        stops = range(self.block_tokens, min(num_codes, self.max_new_tokens - 1) + 1, self.block_tokens)
        heard = tuple(Span(self.max_candidates, 0, stop) for stop in stops)
        decoded = tuple(replace(span, start=span.stop - self.block_tokens) for span in heard)
        return SearchWork(num_codes, self.max_candidates, (whole,), (*decoded, whole), {self.health: heard})

    def search(self, root: Branch, seed: int) -> Search:
        healthy: list[Candidate] = []
        sick: list[Candidate] = []
        num_drawn = 0
        while num_drawn < self.max_candidates:
            indices = range(num_drawn, min(num_drawn + self.round_size, self.max_candidates))
            num_drawn = indices.stop
            new, given_up = yield from self._round(root, seed, indices)
            healthy, sick = healthy + new, sick + given_up
            if new:
                yield Score(root.prompt, new, (self.reward,))
            if self._is_enough([one.scores[self.reward] for one in healthy]):
                break
        return (yield from scored(root.prompt, healthy or sick[:1]))

    def _is_enough(self, scores: Sequence[float]) -> bool:
        if self.perfect_score is not None and any(score >= self.perfect_score for score in scores):
            return True
        return expected_gain(scores, self.prior_spread) < self.price

    def _round(
        self, root: Branch, seed: int, indices: range
    ) -> Generator[Request, list[Branch] | None, tuple[list[Candidate], list[Candidate]]]:
        """Sample the candidates of these indices; returns the complete and the discarded ones, both in order."""
        seeds = {index: candidate_seed(seed, root.prompt.key, index) for index in indices}
        block = self.max_new_tokens if self.health is None else self.block_tokens
        growing = dict.fromkeys(indices, root)
        partial: dict[int, Candidate] = {}
        whole: dict[int, Candidate] = {}
        sick: dict[int, Candidate] = {}
        ended: list[Branch] = []
        for first_token in range(0, self.max_new_tokens, block):
            if not growing:
                break
            num_new = min(block, self.max_new_tokens - first_token)
            children = yield Extend(list(growing.values()), 1, num_new, [seeds[index] for index in growing])
            assert children is not None, "an Extend is answered with branches"
            if first_token:
                yield Drop(list(growing.values()))
            grown, growing = dict(zip(growing, children, strict=True)), {}
            for index, branch in grown.items():
                if branch.stopped or first_token + num_new == self.max_new_tokens:
                    whole[index] = finished_candidate(branch, index, seeds[index])
                    ended.append(branch)
                else:
                    audio = partial[index].audio if index in partial else None
                    partial[index] = partial_candidate(branch, index, seeds[index], audio)
                    growing[index] = branch
            if growing:
                yield Score(root.prompt, [partial[index] for index in growing], (self.health,))
            for index in [index for index in growing if partial[index].scores[self.health] < self.min_health]:
                sick[index] = finished_candidate(growing[index], index, seeds[index])
                yield Drop([growing.pop(index)])
        yield Drop(ended)
        return [whole[index] for index in sorted(whole)], [sick[index] for index in sorted(sick)]
