"""What the language model itself thinks of a candidate: its mean log-probability per token."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from modules.api import Candidate, Prompt


class Likelihood:
    """Mean log-probability per drawn token (nats), the end token included; NaN for a candidate without tokens.

    Needs no audio and no model of its own: the sampler has already paid for the number. Under the model itself, at
    temperature 1, whatever the sampling settings were.
    """

    name = "likelihood"
    model_hash = "likelihood"
    families = frozenset({"likelihood"})
    settings: ClassVar[dict[str, Any]] = {}
    best_score = float("inf")  # -20 and 0 are no ends that speech comes near: intervals must not reach for them
    worst_score = -20.0
    needs_text = False
    needs_reference = False
    judges_partial = True

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        """(N,) float64, at most 0."""
        num_tokens = [candidate.num_codes + int(candidate.stopped) for candidate in candidates]
        means = [
            candidate.log_probability / count if count else float("nan")
            for candidate, count in zip(candidates, num_tokens, strict=True)
        ]
        return torch.tensor(means, dtype=torch.float64)

    def flops(self, seconds: float) -> float:
        """Nothing: the sampler counted the forward passes."""
        return 0.0
