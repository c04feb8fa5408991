"""What the language model itself thinks of a candidate: its log-probability."""

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.api import Candidate, Prompt


class Likelihood:
    """Mean log-probability per drawn token (nats), the end token included; NaN for a candidate without tokens.

    Needs no audio and no model of its own: the sampler has already paid for the number. Under the model itself, at
    temperature 1, whatever the sampling settings were.

    Args:
        per_token: False for the log-probability of the whole candidate, which a short one has the highest of (Stahlberg
            and Byrne, arXiv 1908.10090): a selector that leaves words out, to show what a report says of such a one.
        name: Column of tables.
    """

    model_hash = "likelihood"
    needs_text = False
    needs_reference = False
    judges_partial = True

    def __init__(self, per_token: bool = True, name: str = "likelihood") -> None:
        self.per_token, self.name = per_token, name
        self.worst_score = -20.0 if per_token else -10_000.0

    @property
    def settings(self) -> dict[str, bool]:
        """What decides the score."""
        return {"per_token": self.per_token}

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        """(N,) float64, at most 0."""
        num_tokens = [candidate.num_codes + int(candidate.stopped) for candidate in candidates]
        scores = [
            candidate.log_probability / (count if self.per_token else 1) if count else float("nan")
            for candidate, count in zip(candidates, num_tokens, strict=True)
        ]
        return torch.tensor(scores, dtype=torch.float64)

    def flops(self, seconds: float) -> float:
        """Nothing: the sampler counted the forward passes."""
        return 0.0
