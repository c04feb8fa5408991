"""The driver: runs the searches of many prompts at once, so that sampling, decoding and scoring are batched."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from modules.api import Branch, Candidate, Codec, Cost, Prompt, Sampler, Verifier
from modules.search.costs import (
    decoding_flops,
    growth_flops,
    sampling_cost,
    share_seconds,
    verifier_cost,
    with_shared_costs,
)
from modules.search.protocol import Drop, Extend, Request, Score, Search, SearchAlgorithm, Trace
from modules.search.scoring import ScoreFailure, decode_candidates, is_comparative, num_decoded, score_groups

logger = logging.getLogger(__name__)

# Called with the name of the stage that begins and how many prompts have been finished since the last call.
Progress = Callable[[str, int], None]


def no_progress(stage: str, num_finished: int) -> None:
    """Shows nothing."""


@dataclass
class RunningSearch:
    """One prompt's generator, the request it waits on, every branch that it may still grow, and what it has spent.

    `seconds` of sampling are not yet shared out to candidates. `unscored`: final candidates and the verifiers that
    failed on them; `num_failures` counts all of those, on partial audio too.
    """

    root: Branch
    generator: Search
    num_prompt_tokens: int
    spent: Cost
    request: Request | None = None
    branches: list[Branch] = field(default_factory=list)
    seconds: float = 0.0
    trace: Trace | None = None
    num_failures: int = 0
    unscored: list[tuple[Candidate, str]] = field(default_factory=list)

    @classmethod
    def begin(
        cls, root: Branch, algorithm: SearchAlgorithm, sampler: Sampler, seed: int, seconds: float
    ) -> "RunningSearch":
        """`seconds`: of reading the prompt."""
        num_prompt_tokens = sampler.num_prompt_tokens(root.prompt)
        prompt_flops = sampler.flops(num_prompt_tokens, 0)
        spent = Cost(lm_flops=prompt_flops, prompt_flops=prompt_flops)
        return cls(root, algorithm.search(root, seed), num_prompt_tokens, spent, branches=[root], seconds=seconds)

    def advance(self, answer: list[Branch] | None, sampler: Sampler) -> None:
        """Hand over the answer and take the next request that others may share, or the trace."""
        try:
            self.request = self.generator.send(answer)
            while isinstance(self.request, Drop):
                self._drop(self.request, sampler)
                self.request = self.generator.send(None)
        except StopIteration as stop:
            self.request, self.trace = None, stop.value

    def _drop(self, request: Drop, sampler: Sampler) -> None:
        unwanted = {id(branch) for branch in request.branches}
        sampler.drop([branch for branch in self.branches if id(branch) in unwanted])
        self.branches = [branch for branch in self.branches if id(branch) not in unwanted]

    def note_failures(self, verifier_name: str, failed: set[ScoreFailure]) -> None:
        """A final candidate on which a verifier failed while it steered will be asked about again at the end."""
        own = [one for one in self.request.candidates if (self.root.prompt.key, one.index, verifier_name) in failed]
        self.num_failures += len(own)
        self.unscored += [(one, verifier_name) for one in own if not one.is_partial]

    def ask_again(self) -> None:
        """Forget, before the last round, the scores that are NaN because a verifier failed."""
        for candidate, name in self.unscored:
            candidate.scores.pop(name, None)
        self.unscored = []

    def finish(self) -> Trace:
        """The trace; its candidates carry all that was spent."""
        assert self.trace is not None, "a search ends with a Trace"
        self.spent += Cost(seconds=self.seconds)
        self.spend_seconds(self.trace.candidates)
        return with_shared_costs(self.trace, self.spent)

    def spend_seconds(self, candidates: Sequence[Candidate]) -> None:
        shares = share_seconds(self.seconds, [candidate.num_codes for candidate in candidates])
        for candidate, seconds in zip(candidates, shares, strict=True):
            candidate.cost += Cost(seconds=seconds)
        self.seconds = 0.0


def check_selectors(algorithm: SearchAlgorithm, selectors: Sequence[Verifier]) -> None:
    """Raises ValueError where a verifier that steers the search is no selector, compares the candidates of one call, or
    cannot judge partial audio."""
    by_name = {selector.name: selector for selector in selectors}
    for name in algorithm.verifier_names:
        if name not in by_name:
            raise ValueError(
                f"Expected what steers {algorithm.name} to be one of the selectors {sorted(by_name)}, but got {name!r}."
            )
        if is_comparative(by_name[name]):
            raise ValueError(
                f"Expected what steers {algorithm.name} to score every candidate by itself, but got {name!r}, whose "
                "scores compare the candidates of one call: steer by one of its members."
            )
    for name in algorithm.estimate(1).heard:
        if not by_name[name].judges_partial:
            raise ValueError(f"Expected what steers {algorithm.name} to judge partial audio, but got {name!r}.")


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
    scored are decoded together. A candidate's cost is the FLOPs to draw it, to decode it and to show it to verifiers
    that steer, and its share of the wall seconds; what went into branches that a search gave up is shared among its
    candidates. What the other selectors cost stands apart, by name. A verifier's exception gives NaN and, for final
    candidates, is added to `failures`. Every branch is dropped at the end, also when something raises. ValueError where
    a verifier that steers is no selector.
    """
    if not prompts:
        return []
    check_selectors(algorithm, selectors)
    started = time.perf_counter()
    roots = sampler.start(prompts)
    lengths = [sampler.num_prompt_tokens(prompt) for prompt in prompts]
    seconds = share_seconds(time.perf_counter() - started, lengths)
    begun = zip(roots, seconds, strict=True)
    searches = [RunningSearch.begin(root, algorithm, sampler, seed, reading) for root, reading in begun]
    try:
        for search in searches:
            search.advance(None, sampler)
        while waiting := [search for search in searches if search.request is not None]:
            growing = [search for search in waiting if isinstance(search.request, Extend)]
            if growing:
                progress("sampling", 0)
                _answer_extends(growing, sampler)
            else:
                _answer_scores(waiting, algorithm, sampler, codec, selectors, decode_batch_size, progress, failures)
            progress("searching", sum(search.request is None for search in waiting))
    finally:
        sampler.drop([branch for search in searches for branch in search.branches])
    if num_failures := sum(search.num_failures for search in searches):
        logger.warning("%d scores that should steer %s failed with an exception.", num_failures, algorithm.name)
    return [search.finish() for search in searches]


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
            search.spent += Cost(lm_flops=_grown_flops(search, own, sampler))
            search.advance(own, sampler)


def _grown_flops(search: RunningSearch, children: Sequence[Branch], sampler: Sampler) -> float:
    """FLOPs of the language model from the parents' codes to the children's."""
    parents = [branch for branch in search.request.branches for _ in range(search.request.num_children)]
    lengths = Counter(
        (parent.codes_S.numel(), child.codes_S.numel()) for parent, child in zip(parents, children, strict=True)
    )
    return sum(
        count * growth_flops(sampler, search.num_prompt_tokens, start, stop) for (start, stop), count in lengths.items()
    )


def _answer_scores(
    searches: Sequence[RunningSearch],
    algorithm: SearchAlgorithm,
    sampler: Sampler,
    codec: Codec,
    selectors: Sequence[Verifier],
    decode_batch_size: int,
    progress: Progress,
    failures: set[ScoreFailure] | None,
) -> None:
    for search in searches:
        if search.request.verifiers is None:
            search.ask_again()
    progress("decoding", 0)
    asked = [(search, candidate) for search in searches for candidate in search.request.candidates]
    before = [candidate.cost for _, candidate in asked]
    starts = [num_decoded(candidate, codec) for _, candidate in asked]
    started = time.perf_counter()
    decode_candidates([candidate for _, candidate in asked], codec, decode_batch_size)
    num_new = [candidate.num_codes - start for (_, candidate), start in zip(asked, starts, strict=True)]
    shares = share_seconds(time.perf_counter() - started, num_new)
    for (search, candidate), start, seconds in zip(asked, starts, shares, strict=True):
        candidate.cost += Cost(seconds=seconds)
        codec_flops = decoding_flops(codec, start, candidate.num_codes, candidate.num_voice_codes)
        search.spent += Cost(codec_flops=codec_flops)
        if candidate.is_partial:
            candidate.cost += Cost(codec_flops=codec_flops)
        elif candidate.cost.lm_flops == candidate.cost.codec_flops == 0:
            sizes = (search.num_prompt_tokens, candidate.num_codes, candidate.num_voice_codes)
            candidate.cost += sampling_cost(sampler, codec, *sizes)
    for verifier in selectors:
        is_steering = verifier.name in algorithm.verifier_names
        failed = _ask([search.request for search in searches], verifier, is_steering, codec, progress)
        for search in searches:
            if search.request.verifiers is not None:
                search.note_failures(verifier.name, failed)
            elif failures is not None:
                failures |= {failure for failure in failed if failure[0] == search.root.prompt.key}
    for search in searches:
        search.spend_seconds(search.request.candidates)
    for (search, candidate), earlier in zip(asked, before, strict=True):
        verifier_flops = candidate.cost.verifier_flops - earlier.verifier_flops
        search.spent += Cost(verifier_flops=verifier_flops, seconds=candidate.cost.seconds - earlier.seconds)
    for search in searches:
        search.advance(None, sampler)


def _ask(
    requests: Sequence[Score], verifier: Verifier, is_steering: bool, codec: Codec, progress: Progress
) -> set[ScoreFailure]:
    """Let the verifier score, in one round, those candidates that it has not heard, where the request wants it."""
    prompts, groups = [], []
    for request in requests:
        if request.verifiers is not None and verifier.name not in request.verifiers:
            continue
        if candidates := [candidate for candidate in request.candidates if verifier.name not in candidate.scores]:
            prompts.append(request.prompt)
            groups.append(candidates)
    if not groups:
        return set()
    if not verifier.judges_partial and any(candidate.is_partial for group in groups for candidate in group):
        raise ValueError(f"Expected a verifier that judges partial audio, but got {verifier.name!r}.")
    progress(verifier.name, 0)
    failed = score_with_cost(prompts, groups, verifier, codec)
    if is_steering:
        for candidate in [one for group in groups for one in group]:
            candidate.cost += candidate.verifier_costs.pop(verifier.name)
    return failed


def score_with_cost(
    prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]], verifier: Verifier, codec: Codec
) -> set[ScoreFailure]:
    """`score_groups`; what it cost, in FLOPs and shares of the seconds, goes into the candidates' `verifier_costs`."""
    started = time.perf_counter()
    failed = score_groups(prompts, groups, verifier)
    candidates = [candidate for group in groups for candidate in group]
    shares = share_seconds(time.perf_counter() - started, [candidate.num_codes for candidate in candidates])
    for candidate, seconds in zip(candidates, shares, strict=True):
        flops = verifier_cost([verifier], codec, candidate.num_codes)
        candidate.verifier_costs[verifier.name] = flops + Cost(seconds=seconds)
    return failed
