"""modules/speech/selection.py: which candidate is spoken, and the reason in words."""

import torch

from modules.api import Candidate, Prompt
from modules.speech.selection import choose

SHORT, AWAY, FINE = ("too short for its text",), ("ran away",), ()


def chosen(*faults: tuple[str, ...]):
    """The choice among candidates of which later ones are less likely."""
    candidates = [Candidate("a", place, 0, torch.zeros(4), -float(place), True) for place in range(len(faults))]
    return choose(Prompt("a", "one"), candidates, faults, [])


def test_the_reason_tells_an_emergency_from_a_choice() -> None:
    """Guards against an unusable candidate before a usable one, and against a reason that nobody can read when there is
    no usable one."""
    assert (chosen(SHORT, FINE, AWAY).index, chosen(SHORT, FINE, AWAY).reason) == (
        1,
        "number 2 of 3, 2 of the others rejected (ran away, too short for its text)",
    )
    assert chosen(SHORT, AWAY).reason == "all 2 draws rejected (ran away, too short for its text), number 1 kept"
    assert chosen(SHORT).reason == "one sample, this one too short for its text"
    assert chosen(FINE, FINE).reason == "number 1 of 2"
