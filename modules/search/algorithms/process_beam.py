"""Beam search with a process reward: partial audio is scored every few tokens, and the best beams are kept.

The search of Llasa (Ye et al., arXiv 2502.04128, section 3.4), whose code was not published: every 25 tokens (0.5 s)
each of B beams is extended to N candidates, a verifier scores the partial audio, and the best B are kept.
"""

from dataclasses import dataclass, replace

from modules.api import Branch
from modules.search.algorithms.beams import BeamSettings, beam_estimate, final_candidates, grow_beams, scored
from modules.search.growth import require_positive
from modules.search.protocol import Search, SearchWork, Span


@dataclass(frozen=True)
class ProcessBeam:
    """Every `block_tokens` tokens each of `num_beams` beams has `num_children`; the best `num_beams` are kept.

    `reward` names the selector that steers; all selectors score the final beams. The cost is B * N samples, each
    scored S / M times. Speaker similarity as the reward improves similarity but worsens WER (the paper, figure 2).
    """

    reward: str
    num_beams: int
    num_children: int
    max_new_tokens: int
    block_tokens: int = 25

    def __post_init__(self) -> None:
        require_positive(self, "num_beams", "num_children", "max_new_tokens", "block_tokens")

    @property
    def name(self) -> str:
        return "process_beam"

    @property
    def verifier_names(self) -> tuple[str, ...]:
        return (self.reward,)

    @property
    def independent_candidates(self) -> bool:
        return False

    @property
    def _beams(self) -> BeamSettings:
        return BeamSettings(self.reward, self.num_beams, self.num_children, self.block_tokens, self.max_new_tokens)

    def estimate(self, num_codes: int) -> SearchWork:
        estimate = beam_estimate(self._beams, min(num_codes, self.max_new_tokens))
        if estimate.ended_early:
            return estimate
        whole = Span(self.num_beams, 0, estimate.num_codes)
        return replace(estimate, decoded=(*estimate.decoded, whole))

    def search(self, root: Branch, seed: int) -> Search:
        beams = yield from grow_beams(root, seed, self._beams)
        return (yield from scored(root.prompt, final_candidates(beams)))
