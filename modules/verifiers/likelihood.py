"""Likelihood: mean log-probability per token of a candidate under the language model itself."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from modules.api import Candidate, Prompt, VerifierFacts


class Likelihood:
    """Mean log-probability per sampled token (nats), the end token included; NaN for a candidate without tokens.

    Needs no audio and no model of its own, because the sampler has already computed it: under the language model, at
    temperature 1, regardless of the sampling settings.
    """

    facts = VerifierFacts(
        name="likelihood",
        model_hash="likelihood",
        settings={},
        families=frozenset({"likelihood"}),
        worst_score=-20.0,
        best_score=math.inf,  # speech never comes near -20 or 0, so intervals must not use them as bounds
        needs_text=False,
        needs_reference=False,
        judges_partial=True,
    )

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        """(N,) float64, at most 0."""
        num_tokens = [one.num_codes + one.num_written_tokens + int(one.stopped) for one in candidates]
        means = [
            candidate.log_probability / count if count else float("nan")
            for candidate, count in zip(candidates, num_tokens, strict=True)
        ]
        return torch.tensor(means, dtype=torch.float64)

    def flops(self, seconds: float) -> float:
        """0: the forward passes are counted by the sampler."""
        return 0.0
