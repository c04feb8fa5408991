"""A sweep's verifiers in plain words: what each measures, from its class, and which end of its scale is good."""

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modules.api import Transcribes, Verifier


@dataclass(frozen=True)
class GlossaryLine:
    """A verifier of the page: its roles, what it measures, the direction of its scores, and its families."""

    name: str
    roles: Sequence[str]
    meaning: str
    direction: str
    families: Sequence[str]


def glossary(verifiers: Sequence[Verifier], roles: Mapping[str, Sequence[str]]) -> list[GlossaryLine]:
    """A line for each verifier, in order; `roles` by name."""
    return [
        GlossaryLine(
            one.facts.name,
            roles.get(one.facts.name, ()),
            first_sentence(type(one)),
            direction_of(one),
            sorted(one.facts.families),
        )
        for one in verifiers
    ]


def first_sentence(kind: type) -> str:
    """The first sentence of a class's own docstring, without markup; empty if there is none."""
    paragraph = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("`", "")
    sentence = re.match(r".*?[.](?=\s+[A-Z]|$)", " ".join(paragraph.split()))
    return sentence[0] if sentence else ""


def direction_of(verifier: Verifier) -> str:
    """Transcripts are shown as error rates, everything else as it is scored."""
    if isinstance(verifier, Transcribes):
        return "Its figures show the error (1 - score): lower is better."
    worst, best = verifier.facts.worst_score, verifier.facts.best_score
    scale = f" (scale {worst:g} to {best:g})" if math.isfinite(worst) and math.isfinite(best) else ""
    return f"Higher is better{scale}."
