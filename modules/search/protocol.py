"""What a search algorithm says and hears: its requests to the driver, its estimate, and the trace that it leaves."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch

from modules.api import Branch, Candidate, Cost, Prompt, PromptFormat, Sampler, SamplerEngine, SamplingSettings


@dataclass(frozen=True)
class Trace:
    """What a search did for one prompt: every candidate that it ended with, in sampling order, with its cost.

    The costs of the candidates, the prompt counted once, are all that the search spent: what went into branches that it
    gave up is shared among them. To hear the candidates for a choice at the end costs more: `cost_with`.
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
        """`cost`, and that of having every candidate heard by these verifiers."""
        names = list(verifier_names)
        heard = [one.verifier_costs[name] for one in self.candidates for name in names if name in one.verifier_costs]
        return sum(heard, self.cost)


@dataclass(frozen=True)
class Extend:
    """Request: grow each branch into `num_children`, by at most `max_new_tokens`; one seed per child.

    Answered with the children, those of one branch side by side.
    """

    branches: list[Branch]
    num_children: int
    max_new_tokens: int
    seeds: list[int]


@dataclass(frozen=True)
class Score:
    """Request: decode the candidates and let selectors score them (fills `candidate.scores`; answered with None).

    `verifiers` names those to ask; None asks every selector that has not scored a candidate yet. Partial candidates are
    decoded from where their audio ends, and only verifiers that judge partial audio may be asked about them.
    """

    prompt: Prompt
    candidates: list[Candidate]
    verifiers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Drop:
    """Request: these branches will not be grown again, their memory is free (answered with None)."""

    branches: list[Branch]


Request = Extend | Score | Drop
Search = Generator[Request, list[Branch] | None, Trace]


@dataclass(frozen=True)
class Span:
    """`count` branches that go from `start` to `stop` codes."""

    count: int
    start: int
    stop: int


@dataclass(frozen=True)
class Estimate:
    """What a search will ask for, for one prompt: known before it runs.

    `drawn`: by the language model. `decoded`: by the codec. `heard`: by verifier name, partial candidates (a verifier
    hears them from the start). The `num_final` candidates of `num_codes` codes are heard by every selector at the end,
    but for those in `heard` if `ended_early`: they heard the final candidates when these ended.
    """

    num_codes: int
    num_final: int
    drawn: tuple[Span, ...]
    decoded: tuple[Span, ...]
    heard: dict[str, tuple[Span, ...]] = field(default_factory=dict)
    ended_early: bool = False

    @property
    def num_tokens(self) -> int:
        """Codes that the language model draws."""
        return sum(span.count * (span.stop - span.start) for span in self.drawn)


@runtime_checkable
class SearchAlgorithm(Protocol):
    """A search is a generator that yields Extend, Score and Drop and returns a Trace.

    One driver runs the generators of many prompts at once, so generation and scoring are batched across prompts.

    `verifier_names` are the selectors whose scores steer it: its candidates depend on them. With
    `independent_candidates` the candidates are samples that do not know of each other, so that the expected best of any
    n of them is what the search with n would have given; without, a curve has one point.
    """

    @property
    def name(self) -> str: ...
    @property
    def verifier_names(self) -> tuple[str, ...]: ...
    @property
    def independent_candidates(self) -> bool: ...

    def estimate(self, num_codes: int) -> Estimate:
        """What it will ask for if every candidate has `num_codes` codes; at `max_new_tokens` an upper bound."""
        ...

    def search(self, root: Branch, seed: int) -> Search: ...


@runtime_checkable
class SweptModel(Protocol):
    """A language model that is swept beside the one under test; memory holds one such at a time.

    What `name`, `prompt_format` and `codec_fingerprint` (empty: not recorded) say is known before `load`, `model_hash`
    after it.
    """

    @property
    def name(self) -> str: ...
    @property
    def prompt_format(self) -> PromptFormat: ...
    @property
    def codec_fingerprint(self) -> str: ...
    @property
    def model_hash(self) -> str: ...
    def load(self, device: torch.device, dtype: torch.dtype) -> None: ...
    def free(self) -> None: ...
    def sampler(self, settings: SamplingSettings, engine: SamplerEngine | None = None) -> Sampler: ...
