"""The driver: runs the searches of many prompts concurrently, so that sampling, decoding and scoring are batched."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from modules.api import Branch, Candidate, CombinesVerifiers, Cost, Prompt, Sampler, Verifier
from modules.members import check_members
from modules.search.costs import (
    decoding_flops,
    growth_flops,
    sampling_cost,
    share_seconds,
    with_shared_costs,
)
from modules.search.protocol import Drop, Extend, Request, Search, SearchAlgorithm, Trace
from modules.search.scorer import Progress, Scorer, no_progress, num_decoded

logger = logging.getLogger(__name__)


@dataclass
class RunningSearch:
    """State of one prompt's search: generator, pending request, branches that it may still extend, and cost so far.

    `seconds` of sampling are not yet assigned to candidates.
    """

    root: Branch
    generator: Search
    num_prompt_tokens: int
    spent: Cost
    request: Request | None = None
    branches: list[Branch] = field(default_factory=list)
    seconds: float = 0.0
    trace: Trace | None = None

    @classmethod
    def begin(
        cls, root: Branch, algorithm: SearchAlgorithm, sampler: Sampler, seed: int, seconds: float
    ) -> "RunningSearch":
        """Start a search; `seconds` is the time that the prompt's prefill took."""
        num_prompt_tokens = sampler.num_prompt_tokens(root.prompt)
        prompt_flops = sampler.flops(num_prompt_tokens, 0)
        spent = Cost(lm_flops=prompt_flops, prompt_flops=prompt_flops)
        return cls(root, algorithm.search(root, seed), num_prompt_tokens, spent, branches=[root], seconds=seconds)

    def advance(self, answer: list[Branch] | None, sampler: Sampler) -> None:
        """Send the answer to the generator and store its next batchable request, or the trace."""
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

    def finish(self) -> Trace:
        """The trace; the costs of its candidates sum to the search's total cost."""
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
    """Check that the verifiers that steer the search are selectors, give absolute scores and can score partial audio.

    Raises:
        ValueError: The reward verifier is not among `selectors`, its scores are relative to a batch, or it cannot score
            partial audio.
    """
    check_members(algorithm, SearchAlgorithm, "search algorithm")
    for selector in selectors:
        check_members(selector, Verifier, "verifier")
    by_name = {selector.facts.name: selector for selector in selectors}
    for name in algorithm.verifier_names:
        if name not in by_name:
            raise ValueError(
                f"Expected the reward of {algorithm.name} to be one of the selectors {sorted(by_name)}, "
                f"but got {name!r}."
            )
        if isinstance(by_name[name], CombinesVerifiers):
            raise ValueError(
                f"Expected the reward of {algorithm.name} to score every candidate independently, but got {name!r}, "
                "whose scores are relative to the candidates of one call: use one of its members."
            )
    for name in algorithm.estimate(1).heard:
        if not by_name[name].facts.judges_partial:
            raise ValueError(f"Expected the reward of {algorithm.name} to judge partial audio, but got {name!r}.")


def run_searches(
    prompts: Sequence[Prompt],
    algorithm: SearchAlgorithm,
    sampler: Sampler,
    scorer: Scorer,
    selectors: Sequence[Verifier],
    seed: int,
    progress: Progress = no_progress,
) -> list[Trace]:
    """Run the searches of all prompts and return their traces, in order. Candidates keep their decoded audio.

    Extend requests with equal `num_children` and `max_new_tokens` become one call of the sampler; all candidates to be
    scored are decoded together. A candidate's cost is the FLOPs of sampling, decoding and steering verifiers, and its
    share of the wall seconds; the cost of discarded branches is shared among the candidates of the search. The costs of
    other selectors are kept separately, by name. All branches are dropped at the end, also after an exception.

    Raises:
        ValueError: The sampler, the algorithm or a selector lacks a member, or a verifier that steers the search is not
            a selector (see `check_selectors`).
    """
    if not prompts:
        return []
    check_members(sampler, Sampler, "sampler")
    check_selectors(algorithm, selectors)
    started = time.perf_counter()
    roots = sampler.start(prompts)
    lengths = [sampler.num_prompt_tokens(prompt) for prompt in prompts]
    seconds = share_seconds(time.perf_counter() - started, lengths)
    begun = zip(roots, seconds, strict=True)
    searches = [RunningSearch.begin(root, algorithm, sampler, seed, reading) for root, reading in begun]
    num_failures = 0
    try:
        for search in searches:
            search.advance(None, sampler)
        while waiting := [search for search in searches if search.request is not None]:
            growing = [search for search in waiting if isinstance(search.request, Extend)]
            if growing:
                progress("sampling", 0)
                _answer_extends(growing, sampler)
            else:
                num_failures += _answer_scores(waiting, algorithm, sampler, scorer, selectors, progress)
            progress("searching", sum(search.request is None for search in waiting))
    finally:
        sampler.drop([branch for search in searches for branch in search.branches])
    if num_failures:
        logger.warning("%d scores of the reward of %s failed with an exception.", num_failures, algorithm.name)
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
    """FLOPs of the language model to extend the parents to the children."""
    parents = [branch for branch in search.request.branches for _ in range(search.request.num_children)]
    lengths = Counter((parent.num_tokens, child.num_tokens) for parent, child in zip(parents, children, strict=True))
    return sum(
        count * growth_flops(sampler, search.num_prompt_tokens, start, stop) for (start, stop), count in lengths.items()
    )


def _answer_scores(
    searches: Sequence[RunningSearch],
    algorithm: SearchAlgorithm,
    sampler: Sampler,
    scorer: Scorer,
    selectors: Sequence[Verifier],
    progress: Progress,
) -> int:
    """Decode and score what the searches request; returns the number of failed scores of verifiers that steer."""
    requested = [(search, candidate) for search in searches for candidate in search.request.candidates]
    before = [candidate.cost for _, candidate in requested]
    progress("decoding", 0)
    _decode(requested, sampler, scorer)
    num_failures = 0
    for verifier in selectors:
        name, judges_partial = verifier.facts.name, verifier.facts.judges_partial
        asked = [one for one in searches if one.request.verifiers is None or name in one.request.verifiers]
        if not judges_partial and any(one.is_partial for search in asked for one in search.request.candidates):
            raise ValueError(f"Expected a verifier that judges partial audio, but got {name!r}.")
        tasks = [(search.request.prompt, search.request.candidates) for search in asked]
        scored = scorer.score_missing(tasks, verifier, progress)
        if name in algorithm.verifier_names:
            num_failures += sum(name in candidate.failed for candidate in scored)
            for candidate in scored:
                candidate.cost += candidate.verifier_costs.pop(name)
    for search in searches:
        search.spend_seconds(search.request.candidates)
    for (search, candidate), earlier in zip(requested, before, strict=True):
        verifier_flops = candidate.cost.verifier_flops - earlier.verifier_flops
        search.spent += Cost(verifier_flops=verifier_flops, seconds=candidate.cost.seconds - earlier.seconds)
    for search in searches:
        search.advance(None, sampler)
    return num_failures


def _decode(requested: Sequence[tuple[RunningSearch, Candidate]], sampler: Sampler, scorer: Scorer) -> None:
    """Decode the candidates, and add what that cost to them and to their searches."""
    codec = scorer.codec
    starts = [num_decoded(candidate, codec) for _, candidate in requested]
    started = time.perf_counter()
    scorer.decode([candidate for _, candidate in requested])
    num_new = [candidate.num_codes - start for (_, candidate), start in zip(requested, starts, strict=True)]
    shares = share_seconds(time.perf_counter() - started, num_new)
    for (search, candidate), start, seconds in zip(requested, starts, shares, strict=True):
        candidate.cost += Cost(seconds=seconds)
        codec_flops = decoding_flops(codec, start, candidate.num_codes, candidate.num_voice_codes)
        search.spent += Cost(codec_flops=codec_flops)
        if candidate.is_partial:
            candidate.cost += Cost(codec_flops=codec_flops)
        elif candidate.cost.lm_flops == candidate.cost.codec_flops == 0:
            sizes = (search.num_prompt_tokens, candidate.num_codes, candidate.num_voice_codes)
            candidate.cost += sampling_cost(sampler, codec, *sizes, candidate.num_written_tokens)
