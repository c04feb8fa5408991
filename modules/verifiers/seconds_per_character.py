"""How long a candidate takes for each character of its text. Needs no model."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from modules.api import Candidate, Prompt


class SecondsPerCharacter:
    """Seconds of audio for each character of the text: the slower, the better; NaN without audio.

    No measure of quality: who adds or repeats words is slow. As a selector it shows what a report says of a score that
    should not be trusted (studies/search/README.md). English is read at about 0.07.
    """

    name = "seconds per character"
    model_hash = "seconds per character"
    families = frozenset({"seconds per character"})
    settings: ClassVar[dict[str, Any]] = {}
    best_score = float("inf")
    worst_score = 0.0
    needs_text = True
    needs_reference = False
    judges_partial = False

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        """(N,) float64, above 0."""
        seconds = [candidate.audio.seconds if candidate.audio else 0.0 for candidate in candidates]
        return torch.tensor([one / len(prompt.text.strip()) or float("nan") for one in seconds], dtype=torch.float64)

    def flops(self, seconds: float) -> float:
        """Nothing."""
        return 0.0
