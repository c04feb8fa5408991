"""Diverse beam search: independent subtrees, each with its own beam search (Beeching et al. 2024, "DVTS").

A single beam search ends in near copies of its best beam. Subtrees do not compete, so each keeps its own result; and
since they are independent, the expected best of any n of them is exact.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from modules.api import Branch
from modules.search.algorithms.beams import Beam, BeamSettings, final_candidates, grow_beams, scored
from modules.search.algorithms.process_beam import ProcessBeam
from modules.search.growth import require_positive
from modules.search.protocol import Drop, Extend, Request, Score, Search, SearchWork, Span


@dataclass(frozen=True)
class DiverseBeam:
    """`num_subtrees` beam searches of `num_beams` beams each; the best beam of every subtree is a candidate.

    The candidates are independent, so curves over n (subtrees) are exact, as for best-of-n. A subtree whose beams have
    all reached `max_new_tokens` returns the beam with the highest reward.
    """

    reward: str
    num_subtrees: int
    num_children: int
    max_new_tokens: int
    num_beams: int = 1
    block_tokens: int = 25

    def __post_init__(self) -> None:
        require_positive(self, "num_subtrees", "num_children", "max_new_tokens", "num_beams", "block_tokens")

    @property
    def name(self) -> str:
        return "diverse_beam"

    @property
    def verifier_names(self) -> tuple[str, ...]:
        return (self.reward,)

    @property
    def independent_candidates(self) -> bool:
        return True

    @property
    def _beams(self) -> BeamSettings:
        return BeamSettings(self.reward, self.num_beams, self.num_children, self.block_tokens, self.max_new_tokens)

    def estimate(self, num_codes: int) -> SearchWork:
        """Work of one subtree times the number of subtrees; each returns one candidate."""
        one = ProcessBeam(self.reward, self.num_beams, self.num_children, self.max_new_tokens, self.block_tokens)
        tree = one.estimate(num_codes)
        decoded = tree.decoded
        if not tree.ended_early:  # only the chosen beam of a subtree is decoded whole
            decoded = (*decoded[:-1], replace(decoded[-1], count=1))

        def times(spans: Sequence[Span]) -> tuple[Span, ...]:
            return tuple(replace(span, count=span.count * self.num_subtrees) for span in spans)

        heard = {name: times(spans) for name, spans in tree.heard.items()}
        return SearchWork(tree.num_codes, self.num_subtrees, times(tree.drawn), times(decoded), heard, tree.ended_early)

    def search(self, root: Branch, seed: int) -> Search:
        trees = [grow_beams(root, seed, self._beams, f"tree{index}.") for index in range(self.num_subtrees)]
        beams: list[list[Beam]] = yield from in_lockstep(trees)
        return (yield from scored(root.prompt, final_candidates([tree[0] for tree in beams])))


def in_lockstep(
    searches: Sequence[Generator[Request, list[Branch] | None, Any]],
) -> Generator[Request, list[Branch] | None, list[Any]]:
    """Run generators in lockstep and return their results: requests of the same kind and size are merged."""
    results: list[Any] = [None] * len(searches)
    waiting: dict[int, Request] = {}

    def advance(place: int, answer: list[Branch] | None) -> None:
        waiting.pop(place, None)
        try:
            waiting[place] = searches[place].send(answer)
        except StopIteration as stop:
            results[place] = stop.value

    for place in range(len(searches)):
        advance(place, None)
    while waiting:
        groups: dict[tuple[Any, ...], list[int]] = {}
        for place, request in waiting.items():
            groups.setdefault(_kind(request), []).append(place)
        places = groups[min(groups, key=lambda kind: kind[0])]  # Extend first, so that scoring waits for all
        answer = yield _merged([waiting[place] for place in places])
        for place in places:
            request = waiting[place]
            if isinstance(request, Extend):
                assert answer is not None, "an Extend is answered with branches"
                own, answer = answer[: len(request.seeds)], answer[len(request.seeds) :]
                advance(place, own)
            else:
                advance(place, None)
    return results


def _kind(request: Request) -> tuple[Any, ...]:
    if isinstance(request, Extend):
        return (1, request.num_children, request.max_new_tokens)
    return (2, request.verifiers) if isinstance(request, Score) else (0,)


def _merged(requests: Sequence[Request]) -> Request:
    """Merge several requests of one kind into one."""
    first = requests[0]
    if isinstance(first, Extend):
        branches = [branch for request in requests for branch in request.branches]
        seeds = [seed for request in requests for seed in request.seeds]
        return Extend(branches, first.num_children, first.max_new_tokens, seeds)
    if isinstance(first, Score):
        candidates = [one for request in requests for one in request.candidates]
        for index, candidate in enumerate(candidates):
            candidate.index = index  # failures are recorded by index, and every generator numbers from 0
        return replace(first, candidates=candidates)
    return Drop([branch for request in requests for branch in request.branches])
