"""Beam search over partial candidates: extension, scoring and selection of beams."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from modules.api import Branch, Candidate, Prompt
from modules.search.growth import candidate_seed, finished_candidate, partial_candidate
from modules.search.protocol import Drop, Extend, Request, Score, Search, SearchWork, Span, Trace


@dataclass(frozen=True)
class BeamSettings:
    """A beam search of the first `max_tokens` tokens, steered by the selector called `reward`.

    Args:
        reward: Name of a selector that judges partial audio.
        num_beams: Number of beams kept after every block (B).
        num_children: Number of children per beam (N). The first block samples B * N from the prompt.
        block_tokens: Tokens between two scorings (M).
        max_tokens: Length at which the beam search stops.
    """

    reward: str
    num_beams: int
    num_children: int
    block_tokens: int
    max_tokens: int


@dataclass(frozen=True)
class Beam:
    """A branch, its scored candidate, and its sampling seed."""

    branch: Branch
    candidate: Candidate
    seed: int


def grow_beams(
    root: Branch, seed: int, settings: BeamSettings, path: str = ""
) -> Generator[Request, list[Branch] | None, list[Beam]]:
    """Run the beam search; returns the remaining beams, best first: ended ones and those at `max_tokens` (partial).

    An ended beam keeps its place and its score and is not extended. The first child of a beam continues its parent's
    noise and the others have their own noise, so one child per beam is plain sampling. `path` identifies the tree in
    the seeds.
    """
    key = root.prompt.key
    beams: list[Beam] = []
    for first_token in range(0, settings.max_tokens, settings.block_tokens):
        parents = [beam for beam in beams if not beam.branch.stopped]
        if first_token and not parents:
            break
        num_new = min(settings.block_tokens, settings.max_tokens - first_token)
        if first_token == 0:
            seeds = [candidate_seed(seed, key, f"{path}{i}") for i in range(settings.num_beams * settings.num_children)]
            children = yield Extend([root], len(seeds), num_new, seeds)
            audios = [None] * len(seeds)
        else:
            seeds = _child_seeds(parents, seed, f"{path}{first_token}.", settings.num_children)
            children = yield Extend([beam.branch for beam in parents], settings.num_children, num_new, seeds)
            audios = [beam.candidate.audio for beam in parents for _ in range(settings.num_children)]
        assert children is not None, "an Extend is answered with branches"
        grown = []
        for child, child_seed, audio in zip(children, seeds, audios, strict=True):
            candidate = (
                finished_candidate(child, len(grown), child_seed)
                if child.stopped
                else partial_candidate(child, len(grown), child_seed, audio)
            )
            grown.append(Beam(child, candidate, child_seed))
        yield Score(root.prompt, [beam.candidate for beam in grown], (settings.reward,))
        pool = _spread(grown, settings.num_children if first_token else 1)
        pool = [beam for beam in beams if beam.branch.stopped] + pool
        previous, beams = beams, best_beams(pool, settings.reward)[: settings.num_beams]
        kept = {id(beam) for beam in beams}
        given_up = [beam.branch for beam in [*previous, *grown] if id(beam) not in kept]
        yield Drop(([root] if first_token == 0 else []) + [branch for branch in given_up if not branch.stopped])
    return beams


def best_beams(beams: Sequence[Beam], reward: str) -> list[Beam]:
    """Sort beams by descending score; NaN ranks last, ties keep their order."""

    def rank(beam: Beam) -> float:
        score = beam.candidate.scores[reward]
        return math.inf if math.isnan(score) else -score

    return sorted(beams, key=rank)


def _child_seeds(parents: Sequence[Beam], seed: int, path: str, num_children: int) -> list[int]:
    return [
        candidate_seed(seed, parent.branch.prompt.key, f"{path}{place}.{child}") if child else parent.seed
        for place, parent in enumerate(parents)
        for child in range(num_children)
    ]


def _spread(beams: Sequence[Beam], num_children: int) -> list[Beam]:
    """Order first children first, so that among equal scores every parent keeps one before another keeps two."""
    return [beams[place] for child in range(num_children) for place in range(child, len(beams), num_children)]


def final_candidates(beams: Sequence[Beam]) -> list[Candidate]:
    """Convert beams to candidates, numbered in order; unfinished ones become runaways and are decoded whole."""
    candidates = []
    for index, beam in enumerate(beams):
        whole = finished_candidate(beam.branch, index, beam.seed) if beam.candidate.is_partial else beam.candidate
        whole.index = index
        candidates.append(whole)
    return candidates


def beam_estimate(settings: BeamSettings, num_codes: int) -> SearchWork:
    """Work for beams of `num_codes` codes, up to their end or to `max_tokens`; ended ones are decoded whole."""
    drawn, decoded, heard = [], [], []
    num_grown = settings.num_beams * settings.num_children
    for start in range(0, settings.max_tokens, settings.block_tokens):
        limit = min(start + settings.block_tokens, settings.max_tokens)
        stop = min(limit, num_codes)
        drawn.append(Span(num_grown, start, stop))
        decoded.append(Span(num_grown, 0 if num_codes < limit else start, stop))
        heard.append(Span(num_grown, 0, stop))
        if num_codes < limit:
            break
    ended = num_codes < settings.max_tokens
    spans = (tuple(drawn), tuple(decoded), {settings.reward: tuple(heard)})
    return SearchWork(num_codes, settings.num_beams, *spans, ended_early=ended)


def scored(prompt: Prompt, candidates: list[Candidate]) -> Search:
    """Score the final candidates with every selector and return the trace."""
    yield Score(prompt, candidates)
    return Trace(prompt, candidates)
