"""Beams of partial candidates: growing, scoring and keeping the best."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from modules.api import Branch, Candidate, Prompt
from modules.search.growth import candidate_seed, finished_candidate, partial_candidate
from modules.search.protocol import Drop, Estimate, Extend, Request, Score, Search, Span, Trace


@dataclass(frozen=True)
class BeamSettings:
    """A beam search of the first `max_tokens` tokens, steered by the selector called `reward`.

    Args:
        reward: Name of a selector that judges partial audio.
        num_beams: How many stay after every block (B).
        num_children: Into how many each grows (N). The first block draws B * N from the prompt.
        block_tokens: Tokens between two judgements (M).
        max_tokens: Where it stops.
    """

    reward: str
    num_beams: int
    num_children: int
    block_tokens: int
    max_tokens: int


@dataclass(frozen=True)
class Beam:
    """A branch, what was judged of it, and the seed that it is drawn with."""

    branch: Branch
    candidate: Candidate
    seed: int


def grow_beams(
    root: Branch, seed: int, settings: BeamSettings, path: str = ""
) -> Generator[Request, list[Branch] | None, list[Beam]]:
    """The beams that are left, the best first: ended ones, and those that reached `max_tokens` (still partial).

    An ended beam keeps its place and its score, and is not grown. The first child of a beam goes on with its parent's
    noise and the others have noise of their own, so that with one child per beam this is plain sampling. `path` names
    the tree, for its seeds.
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
    """By falling score; NaN ranks last, equals keep their order."""

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
    """First children first, so that among equal scores every parent keeps one before another keeps two."""
    return [beams[place] for child in range(num_children) for place in range(child, len(beams), num_children)]


def final_candidates(beams: Sequence[Beam]) -> list[Candidate]:
    """The beams as candidates: those that were still growing as runaways, to be decoded whole; numbered in order."""
    candidates = []
    for index, beam in enumerate(beams):
        whole = finished_candidate(beam.branch, index, beam.seed) if beam.candidate.is_partial else beam.candidate
        whole.index = index
        candidates.append(whole)
    return candidates


def beam_estimate(settings: BeamSettings, num_codes: int) -> Estimate:
    """All beams of `num_codes` codes, up to their end or to `max_tokens`; those that end are decoded whole."""
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
    return Estimate(num_codes, settings.num_beams, *spans, ended_early=ended)


def scored(prompt: Prompt, candidates: list[Candidate]) -> Search:
    """Let every selector score the final candidates, and end."""
    yield Score(prompt, candidates)
    return Trace(prompt, candidates)
