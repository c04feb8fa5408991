"""Panel: the verifiers of a sweep by role (selectors, judges, final judges), and selection by their scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from modules.api import Candidate, CombinesVerifiers, Prompt, Verifier, disagreement_name
from modules.members import check_members
from modules.provenance import plain
from modules.search.analysis.expected_best_of_n import SELF_JUDGED
from modules.search.protocol import Trace


def unique_prompts(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Remove repeated keys, keeping the order.

    Raises:
        ValueError: A key occurs with two texts or languages; results are indexed by key.
    """
    by_key: dict[str, Prompt] = {}
    for prompt in prompts:
        first = by_key.setdefault(prompt.key, prompt)
        if (first.text, first.language) != (prompt.text, prompt.language):
            raise ValueError(
                f"Expected `key` to name one prompt, but got {prompt.key!r} for {first.text!r} and for {prompt.text!r}."
            )
    return list(by_key.values())


def chosen_index(candidates: Sequence[Candidate], selector_name: str) -> int:
    """Position of the candidate with the best score. NaN ranks last; the first wins ties."""
    scores = [candidate.scores.get(selector_name, math.nan) for candidate in candidates]
    return max(range(len(scores)), key=lambda place: -math.inf if math.isnan(scores[place]) else scores[place])


@dataclass(frozen=True)
class Panel:
    """Selectors and judges of a sweep. `final_judges`: expensive judges that score only the first candidate and the
    selected ones. `self_judged`: judges select too, and the lines in which a judge's model selected or steered are
    drawn, labelled SELF_JUDGED. `only_self_judged` are the names of the verifiers that select for that reason alone."""

    selectors: Sequence[Verifier]
    judges: Sequence[Verifier]
    final_judges: Sequence[Verifier] = ()
    self_judged: bool = False
    only_self_judged: frozenset[str] = field(default=frozenset(), init=False)

    def __post_init__(self) -> None:
        if self.self_judged:
            names = {one.facts.name for one in self.selectors}
            added = [one for one in self.judges if one.facts.name not in names]
            object.__setattr__(self, "selectors", [*self.selectors, *added])
            object.__setattr__(self, "only_self_judged", frozenset(one.facts.name for one in added))
        if not self.judges and not self.final_judges:
            raise ValueError("Expected at least one verifier in `judges` or `final_judges`, but got none.")
        known: dict[str, Any] = {}
        for verifier in [*self.selectors, *self.judges, *self.final_judges]:
            check_members(verifier, Verifier, "verifier")
            facts = verifier.facts
            what = (facts.model_hash, plain(facts.settings))
            if known.setdefault(facts.name, what) != what:
                raise ValueError(f"Expected `name` to be unique to one verifier, but got two called {facts.name!r}.")
            if facts.name == "random" or facts.name.startswith("oracle (") or facts.name.endswith(SELF_JUDGED):
                raise ValueError(f"Expected a verifier's `name` not to be a reserved line, but got {facts.name!r}.")
            if not math.isfinite(facts.worst_score):
                raise ValueError(f"Expected `worst_score` of {facts.name} to be finite, but got {facts.worst_score}.")
        for list_name in ("selectors", "judges", "final_judges"):
            names = [verifier.facts.name for verifier in getattr(self, list_name)]
            if len(set(names)) < len(names):
                raise ValueError(f"Expected each verifier once in `{list_name}`, but got {names}.")
        if both := {one.facts.name for one in self.judges} & {one.facts.name for one in self.final_judges}:
            raise ValueError(f"Expected a verifier in `judges` or in `final_judges`, but got {sorted(both)} in both.")

    @property
    def for_all(self) -> list[Verifier]:
        """Selectors and judges, each once: they score every candidate."""
        return list({one.facts.name: one for one in [*self.selectors, *self.judges]}.values())

    @property
    def everyone(self) -> list[Verifier]:
        return list({one.facts.name: one for one in [*self.for_all, *self.final_judges]}.values())

    @property
    def columns(self) -> list[str]:
        """Keys in the candidates' scores: every verifier's name, and the disagreement of ensembles."""
        columns = []
        for one in self.everyone:
            name = one.facts.name
            columns += [name, disagreement_name(name)] if isinstance(one, CombinesVerifiers) else [name]
        return columns

    def roles(self, name: str) -> list[str]:
        selector = "self-judged selector" if name in self.only_self_judged else "selector"
        lists = {selector: self.selectors, "judge": self.judges, "final judge": self.final_judges}
        return [role for role, members in lists.items() if name in {one.facts.name for one in members}]


def silent_trace(trace: Trace, verifier_names: Sequence[str]) -> Trace:
    """A copy of the trace without audio, with the scores and costs of these verifiers only."""
    candidates = []
    for one in trace.candidates:
        scores = {name: one.scores[name] for name in verifier_names if name in one.scores}
        costs = {name: cost for name, cost in one.verifier_costs.items() if name in verifier_names}
        candidates.append(replace(one, audio=None, scores=scores, verifier_costs=costs))
    return Trace(trace.prompt, candidates)
