"""What a search algorithm says and hears: its requests to the driver, and the trace that it leaves."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from modules.api import Branch, Candidate, Cost, Prompt


@dataclass(frozen=True)
class Trace:
    """What a search did for one prompt: every candidate, in sampling order, with its cost."""

    prompt: Prompt
    candidates: list[Candidate]

    @property
    def cost(self) -> Cost:
        return sum((candidate.cost for candidate in self.candidates), Cost())


@dataclass(frozen=True)
class Extend:
    """Request of a search: grow each branch into `num_children`, by at most `max_new_tokens`; one seed per child."""

    branches: list[Branch]
    num_children: int
    max_new_tokens: int
    seeds: list[int]


@dataclass(frozen=True)
class Score:
    """Request of a search: decode the candidates and let every selector score them (fills `candidate.scores`)."""

    prompt: Prompt
    candidates: list[Candidate]


@runtime_checkable
class SearchAlgorithm(Protocol):
    """A search is a generator: yields Extend (answered with branches) and Score (answered with None), returns a Trace.

    One driver runs the generators of many prompts at once, so generation and scoring are batched across prompts.
    """

    @property
    def name(self) -> str: ...
    def search(self, root: Branch, seed: int) -> Generator[Extend | Score, list[Branch] | None, Trace]: ...
