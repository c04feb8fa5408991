"""Interface between search algorithms and the driver: requests, cost estimate, and the resulting trace."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch

from modules.api import Branch, Candidate, Cost, Prompt, PromptFormat, Sampler, SamplerEngine, SamplingSettings


@dataclass(frozen=True)
class Trace:
    """Result of a search for one prompt: its final candidates in sampling order, with their costs.

    The costs of the candidates, with the prompt counted once, sum to the total cost of the search; the cost of
    discarded branches is shared among them. Scoring the candidates for the final selection is extra: `cost_with`.
    """

    prompt: Prompt
    candidates: list[Candidate]

    @property
    def cost(self) -> Cost:
        total = sum((candidate.cost for candidate in self.candidates), Cost())
        prompt_flops = max((candidate.cost.prompt_flops for candidate in self.candidates), default=0.0)
        lm_flops = total.lm_flops - total.prompt_flops + prompt_flops
        return replace(total, lm_flops=lm_flops, prompt_flops=prompt_flops)

    def cost_with(self, verifier_names: Iterable[str]) -> Cost:
        """`cost` plus the cost of scoring every candidate with these verifiers."""
        names = list(verifier_names)
        heard = [one.verifier_costs[name] for one in self.candidates for name in names if name in one.verifier_costs]
        return sum(heard, self.cost)


@dataclass(frozen=True)
class Extend:
    """Request: extend each branch into `num_children`, by at most `max_new_tokens`; one seed per child.

    The answer is the list of children, grouped by branch.
    """

    branches: list[Branch]
    num_children: int
    max_new_tokens: int
    seeds: list[int]


@dataclass(frozen=True)
class Score:
    """Request: decode the candidates and score them with selectors (fills `candidate.scores`; the answer is None).

    `verifiers` names the selectors to use; None uses every selector that has not scored a candidate yet. Partial
    candidates are decoded from the end of their audio, and may only be scored by verifiers that judge partial audio.
    """

    prompt: Prompt
    candidates: list[Candidate]
    verifiers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Drop:
    """Request: release the memory of branches that will not be extended again (the answer is None)."""

    branches: list[Branch]


Request = Extend | Score | Drop
Search = Generator[Request, list[Branch] | None, Trace]


@dataclass(frozen=True)
class Span:
    """`count` branches that extend from `start` to `stop` codes."""

    count: int
    start: int
    stop: int


@dataclass(frozen=True)
class SearchWork:
    """Work that a search will request for one prompt, known before it runs.

    `drawn`: spans sampled by the language model. `decoded`: spans decoded by the codec. `heard`: partial candidates
    scored by each verifier, by name (a verifier scores them from their start). The `num_final` candidates of
    `num_codes` codes are scored by every selector at the end, except, if `ended_early`, by the verifiers in `heard`,
    which scored the final candidates when these ended.
    """

    num_codes: int
    num_final: int
    drawn: tuple[Span, ...]
    decoded: tuple[Span, ...]
    heard: dict[str, tuple[Span, ...]] = field(default_factory=dict)
    ended_early: bool = False

    @property
    def num_tokens(self) -> int:
        """Number of codes that the language model samples."""
        return sum(span.count * (span.stop - span.start) for span in self.drawn)


@runtime_checkable
class SearchAlgorithm(Protocol):
    """A search is a generator that yields Extend, Score and Drop and returns a Trace.

    One driver runs the generators of many prompts at once, so generation and scoring are batched across prompts.

    `verifier_names` are the selectors whose scores steer the search: its candidates depend on them. With
    `independent_candidates` the candidates are independent samples, so the expected best of any n of them equals the
    result of the search with n; without, a curve has one point.
    """

    @property
    def name(self) -> str: ...
    @property
    def verifier_names(self) -> tuple[str, ...]: ...
    @property
    def independent_candidates(self) -> bool: ...

    def estimate(self, num_codes: int) -> SearchWork:
        """Work of the search if every candidate has `num_codes` codes; an upper bound at `max_new_tokens`."""
        ...

    def search(self, root: Branch, seed: int) -> Search: ...


@runtime_checkable
class SpeechModel(Protocol):
    """What a sweep requires of a language model, such as the LightningModule under test. `codec_fingerprint`: of the
    codec whose codes it was trained on; empty if it is not recorded."""

    @property
    def prompt_format(self) -> PromptFormat: ...
    @property
    def codec_fingerprint(self) -> str: ...
    @property
    def model_hash(self) -> str: ...
    def sampler(self, settings: SamplingSettings, engine: SamplerEngine | None = None) -> Sampler: ...


@runtime_checkable
class SweptModel(SpeechModel, Protocol):
    """A language model that is swept in addition to the one under test; only one is in memory at a time. `model_hash`
    and `sampler` are available between `load` and `free`."""

    @property
    def name(self) -> str: ...
    def load(self, device: torch.device, dtype: torch.dtype) -> None: ...
    def free(self) -> None: ...
