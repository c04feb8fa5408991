"""Partial beam search: process reward at the start, output reward at the end; the best search in the Llasa paper.

Ye et al., arXiv 2502.04128, section 3.4 ("Partial PRM"): beam search over the first 2 seconds, which determine the
voice, then plain sampling from the remaining beams and selection among whole outputs.
"""

from dataclasses import dataclass, replace

from modules.api import Branch
from modules.search.algorithms.beams import BeamSettings, beam_estimate, final_candidates, grow_beams, scored
from modules.search.growth import candidate_seed, finished_candidate, require_positive
from modules.search.protocol import Drop, Extend, Search, SearchWork, Span


@dataclass(frozen=True)
class PartialBeam:
    """Process beam search over `process_tokens` tokens, then `samples_per_beam` whole samples from each remaining beam.

    Args:
        reward: Name of the selector that steers the beams; all selectors score the whole samples.
        num_beams: Beams kept after every block.
        num_children: Children per beam.
        samples_per_beam: Whole samples from each beam at the end.
        max_new_tokens: Maximum length of a whole sample.
        process_tokens: Tokens steered by the process reward; 100 are 2 s at 50 per second.
        block_tokens: Tokens between two scorings.
    """

    reward: str
    num_beams: int
    num_children: int
    samples_per_beam: int
    max_new_tokens: int
    process_tokens: int = 100
    block_tokens: int = 25

    def __post_init__(self) -> None:
        require_positive(self, "num_beams", "num_children", "samples_per_beam", "process_tokens", "block_tokens")
        if self.max_new_tokens <= self.process_tokens:
            raise ValueError(
                f"Expected `max_new_tokens` to be above `process_tokens`={self.process_tokens}, "
                f"but got {self.max_new_tokens}."
            )

    @property
    def name(self) -> str:
        return "partial_beam"

    @property
    def verifier_names(self) -> tuple[str, ...]:
        return (self.reward,)

    @property
    def independent_candidates(self) -> bool:
        return False

    @property
    def _beams(self) -> BeamSettings:
        return BeamSettings(self.reward, self.num_beams, self.num_children, self.block_tokens, self.process_tokens)

    def estimate(self, num_codes: int) -> SearchWork:
        num_codes = min(num_codes, self.max_new_tokens)
        beams = beam_estimate(self._beams, num_codes)
        if beams.ended_early:
            return beams
        num_final = self.num_beams * self.samples_per_beam
        return replace(
            beams,
            num_final=num_final,
            drawn=(*beams.drawn, Span(num_final, self.process_tokens, num_codes)),
            decoded=(*beams.decoded, Span(num_final, 0, num_codes)),
        )

    def search(self, root: Branch, seed: int) -> Search:
        beams = yield from grow_beams(root, seed, self._beams)
        growing = [beam for beam in beams if not beam.branch.stopped]
        candidates = final_candidates([beam for beam in beams if beam.branch.stopped])
        if growing:
            seeds = [
                candidate_seed(seed, root.prompt.key, f"whole.{place}.{sample}") if sample else beam.seed
                for place, beam in enumerate(growing)
                for sample in range(self.samples_per_beam)
            ]
            num_left = self.max_new_tokens - self.process_tokens
            branches = yield Extend([beam.branch for beam in growing], self.samples_per_beam, num_left, seeds)
            assert branches is not None, "an Extend is answered with branches"
            candidates += [
                finished_candidate(branch, index, own_seed)
                for index, (branch, own_seed) in enumerate(zip(branches, seeds, strict=True), len(candidates))
            ]
            yield Drop([*(beam.branch for beam in growing), *branches])
        return (yield from scored(root.prompt, candidates))
