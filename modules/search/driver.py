"""The driver: runs the searches of many prompts at once, so that sampling, decoding and scoring are batched."""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from modules.api import Branch, Candidate, Codec, Cost, Prompt, Sampler, Verifier
from modules.search.ledger import sampling_cost, share_seconds, verifier_cost
from modules.search.protocol import Extend, Score, SearchAlgorithm, Trace
from modules.search.scoring import ScoreFailure, decode_candidates, score_candidates

# Called with the name of the stage that begins and how many prompts have been finished since the last call.
Progress = Callable[[str, int], None]


def no_progress(stage: str, num_finished: int) -> None:
    """Shows nothing."""


@dataclass
class RunningSearch:
    """One prompt's generator, the request it waits on, every branch it was given, and seconds not yet shared out."""

    root: Branch
    generator: Generator[Extend | Score, list[Branch] | None, Trace]
    request: Extend | Score | None = None
    branches: list[Branch] = field(default_factory=list)
    seconds: float = 0.0
    trace: Trace | None = None

    def advance(self, answer: list[Branch] | None) -> None:
        """Hand over the answer and take the next request, or the trace."""
        try:
            self.request = self.generator.send(answer)
        except StopIteration as stop:
            self.request, self.trace = None, stop.value


def run_searches(
    prompts: Sequence[Prompt],
    algorithm: SearchAlgorithm,
    sampler: Sampler,
    codec: Codec,
    selectors: Sequence[Verifier],
    seed: int,
    decode_batch_size: int = 16,
    progress: Progress = no_progress,
    failures: set[ScoreFailure] | None = None,
) -> list[Trace]:
    """The trace of every prompt, in order. Candidates keep their decoded audio.

    Extend requests with equal `num_children` and `max_new_tokens` become one call of the sampler; all candidates to be
    scored are decoded together. A candidate's cost is the FLOPs to draw it, to decode it and to show it to every
    selector, and its share of the wall seconds. A verifier's exception gives NaN and is added to `failures`. Every
    branch is dropped at the end, also when something raises.
    """
    if not prompts:
        return []
    roots = sampler.start(prompts)
    searches = [RunningSearch(root, algorithm.search(root, seed), branches=[root]) for root in roots]
    try:
        for search in searches:
            search.advance(None)
        while waiting := [search for search in searches if search.request is not None]:
            growing = [search for search in waiting if isinstance(search.request, Extend)]
            if growing:
                progress("sampling", 0)
                _answer_extends(growing, sampler)
            else:
                _answer_scores(waiting, sampler, codec, selectors, decode_batch_size, progress, failures)
            progress("searching", sum(search.request is None for search in waiting))
    finally:
        sampler.drop([branch for search in searches for branch in search.branches])
    return [_finished(search) for search in searches]


def _answer_extends(searches: Sequence[RunningSearch], sampler: Sampler) -> None:
    groups: dict[tuple[int, int], list[RunningSearch]] = {}
    for search in searches:
        request = search.request
        if len(request.seeds) != len(request.branches) * request.num_children:
            raise ValueError(
                f"Expected one seed per child = {len(request.branches)} * {request.num_children}, "
                f"but got {len(request.seeds)} `seeds`."
            )
        groups.setdefault((request.num_children, request.max_new_tokens), []).append(search)
    for (num_children, max_new_tokens), group in groups.items():
        started = time.perf_counter()
        branches = [branch for search in group for branch in search.request.branches]
        seeds = [seed for search in group for seed in search.request.seeds]
        children = sampler.extend(branches, num_children, max_new_tokens, seeds)
        assert len(children) == len(seeds), "a sampler returns num_children branches for each branch"
        counts = [len(search.request.seeds) for search in group]
        for search, seconds in zip(group, share_seconds(time.perf_counter() - started, counts), strict=True):
            own, children = (children[: len(search.request.seeds)], children[len(search.request.seeds) :])
            search.branches += own
            search.seconds += seconds
            search.advance(own)


def _answer_scores(
    searches: Sequence[RunningSearch],
    sampler: Sampler,
    codec: Codec,
    selectors: Sequence[Verifier],
    decode_batch_size: int,
    progress: Progress,
    failures: set[ScoreFailure] | None,
) -> None:
    progress("decoding", 0)
    decode_candidates([one for search in searches for one in search.request.candidates], codec, decode_batch_size)
    for search in searches:
        num_prompt_tokens = sampler.num_prompt_tokens(search.request.prompt)
        for candidate in search.request.candidates:
            if candidate.cost.lm_flops == candidate.cost.codec_flops == 0:
                candidate.cost += sampling_cost(sampler, codec, num_prompt_tokens, candidate.num_codes)
    for verifier in selectors:
        progress(verifier.name, 0)
        for search in searches:
            failed = score_with_cost(search.request.prompt, search.request.candidates, verifier, codec)
            if failures is not None:
                failures |= failed
    for search in searches:
        _spend_seconds(search, search.request.candidates)
        search.advance(None)


def score_with_cost(
    prompt: Prompt, candidates: Sequence[Candidate], verifier: Verifier, codec: Codec
) -> set[ScoreFailure]:
    """`score_candidates`, with the verifier's FLOPs and seconds added to the candidates' costs."""
    started = time.perf_counter()
    failed = score_candidates(prompt, candidates, verifier)
    shares = share_seconds(time.perf_counter() - started, [candidate.num_codes for candidate in candidates])
    for candidate, seconds in zip(candidates, shares, strict=True):
        candidate.cost += verifier_cost([verifier], codec, candidate.num_codes) + Cost(seconds=seconds)
    return failed


def _spend_seconds(search: RunningSearch, candidates: Sequence[Candidate]) -> None:
    shares = share_seconds(search.seconds, [candidate.num_codes for candidate in candidates])
    for candidate, seconds in zip(candidates, shares, strict=True):
        candidate.cost += Cost(seconds=seconds)
    search.seconds = 0.0


def _finished(search: RunningSearch) -> Trace:
    assert search.trace is not None, "a search ends with a Trace"
    _spend_seconds(search, search.trace.candidates)
    return search.trace
