"""The driver: runs the searches of many prompts concurrently, so that sampling, decoding and scoring are batched."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from modules.api import Branch, Candidate, Codec, CombinesVerifiers, Cost, Prompt, Sampler, Verifier
from modules.search.costs import (
    decoding_flops,
    growth_flops,
    sampling_cost,
    share_seconds,
    verifier_cost,
    with_shared_costs,
)
from modules.search.protocol import Drop, Extend, Request, Score, Search, SearchAlgorithm, Trace
from modules.search.scoring import ScoreFailure, decode_candidates, num_decoded, score_groups

logger = logging.getLogger(__name__)

# Called with the name of the stage that begins and the number of prompts finished since the last call.
Progress = Callable[[str, int], None]


def no_progress(stage: str, num_finished: int) -> None:
    """Progress callback that does nothing."""


@dataclass
class RunningSearch:
    """State of one prompt's search: generator, pending request, branches that it may still extend, and cost so far.

    `seconds` of sampling are not yet assigned to candidates. `unscored`: final candidates and the verifiers that
    failed on them; `num_failures` counts all failures, including those on partial audio.
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

    def note_failures(self, verifier_name: str, failed: set[ScoreFailure]) -> None:
        """Record failures of a steering verifier; final candidates among them are retried at the end."""
        own = [one for one in self.request.candidates if (self.root.prompt.key, one.index, verifier_name) in failed]
        self.num_failures += len(own)
        self.unscored += [(one, verifier_name) for one in own if not one.is_partial]

    def ask_again(self) -> None:
        """Remove scores that are NaN because a verifier failed, so that the last round retries them."""
        for candidate, name in self.unscored:
            candidate.scores.pop(name, None)
        self.unscored = []

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
    codec: Codec,
    selectors: Sequence[Verifier],
    seed: int,
    decode_batch_size: int = 16,
    progress: Progress = no_progress,
    failures: set[ScoreFailure] | None = None,
) -> list[Trace]:
    """Run the searches of all prompts and return their traces, in order. Candidates keep their decoded audio.

    Extend requests with equal `num_children` and `max_new_tokens` become one call of the sampler; all candidates to be
    scored are decoded together. A candidate's cost is the FLOPs of sampling, decoding and steering verifiers, and its
    share of the wall seconds; the cost of discarded branches is shared among the candidates of the search. The costs of
    other selectors are kept separately, by name. If a verifier raises, the score is NaN and, for final candidates, the
    failure is added to `failures`. All branches are dropped at the end, also after an exception.

    Raises:
        ValueError: A verifier that steers the search is not a selector (see `check_selectors`).
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
    requested = [(search, candidate) for search in searches for candidate in search.request.candidates]
    before = [candidate.cost for _, candidate in requested]
    starts = [num_decoded(candidate, codec) for _, candidate in requested]
    started = time.perf_counter()
    decode_candidates([candidate for _, candidate in requested], codec, decode_batch_size)
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
            candidate.cost += sampling_cost(sampler, codec, *sizes)
    for verifier in selectors:
        is_steering = verifier.facts.name in algorithm.verifier_names
        failed = _ask([search.request for search in searches], verifier, is_steering, codec, progress)
        for search in searches:
            if search.request.verifiers is not None:
                search.note_failures(verifier.facts.name, failed)
            elif failures is not None:
                failures |= {failure for failure in failed if failure[0] == search.root.prompt.key}
    for search in searches:
        search.spend_seconds(search.request.candidates)
    for (search, candidate), earlier in zip(requested, before, strict=True):
        verifier_flops = candidate.cost.verifier_flops - earlier.verifier_flops
        search.spent += Cost(verifier_flops=verifier_flops, seconds=candidate.cost.seconds - earlier.seconds)
    for search in searches:
        search.advance(None, sampler)


def _ask(
    requests: Sequence[Score], verifier: Verifier, is_steering: bool, codec: Codec, progress: Progress
) -> set[ScoreFailure]:
    """Score, in one batch, the candidates that the verifier has not scored yet, if their request includes it."""
    prompts, groups = [], []
    for request in requests:
        if request.verifiers is not None and verifier.facts.name not in request.verifiers:
            continue
        if candidates := [candidate for candidate in request.candidates if verifier.facts.name not in candidate.scores]:
            prompts.append(request.prompt)
            groups.append(candidates)
    if not groups:
        return set()
    if not verifier.facts.judges_partial and any(candidate.is_partial for group in groups for candidate in group):
        raise ValueError(f"Expected a verifier that judges partial audio, but got {verifier.facts.name!r}.")
    progress(verifier.facts.name, 0)
    failed = score_with_cost(prompts, groups, verifier, codec)
    if is_steering:
        for candidate in [one for group in groups for one in group]:
            candidate.cost += candidate.verifier_costs.pop(verifier.facts.name)
    return failed


def score_with_cost(
    prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]], verifier: Verifier, codec: Codec
) -> set[ScoreFailure]:
    """Call `score_groups`; store the cost (FLOPs and shares of the seconds) in the candidates' `verifier_costs`."""
    started = time.perf_counter()
    failed = score_groups(prompts, groups, verifier)
    candidates = [candidate for group in groups for candidate in group]
    shares = share_seconds(time.perf_counter() - started, [candidate.num_codes for candidate in candidates])
    for candidate, seconds in zip(candidates, shares, strict=True):
        flops = verifier_cost([verifier], codec, candidate.num_codes)
        candidate.verifier_costs[verifier.facts.name] = flops + Cost(seconds=seconds)
    return failed
