"""SecondsPerCharacter: a deliberately poor selector without a model, to demonstrate over-optimisation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.api import Candidate, Prompt, VerifierFacts


class SecondsPerCharacter:
    """Seconds of audio per character of the text: slower is better; NaN without audio.

    Not a measure of quality: added or repeated words increase it. As a selector it demonstrates the report's warnings
    about a score that should not be trusted (studies/search/README.md). Read English has about 0.07.
    """

    facts = VerifierFacts(
        name="seconds per character",
        model_hash="seconds per character",
        settings={},
        families=frozenset({"seconds per character"}),
        worst_score=0.0,
        needs_text=True,
        needs_reference=False,
    )

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        """(N,) float64, above 0."""
        seconds = [candidate.audio.seconds if candidate.audio else 0.0 for candidate in candidates]
        return torch.tensor([one / len(prompt.text.strip()) or float("nan") for one in seconds], dtype=torch.float64)

    def flops(self, seconds: float) -> float:
        """Nothing."""
        return 0.0
