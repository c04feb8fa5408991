"""How fast a candidate speaks, by its length and that of its text. Needs no model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.api import Candidate, Prompt


class SpeakingRate:
    """Minus the distance from the wanted rate, in characters of the text per second of audio; NaN without audio.

    At the default, 0, the slower the better. That is no measure of quality: who adds or repeats words is slow. As a
    selector it shows what a report says of a score that should not be trusted (docs/results/search.md).

    Args:
        characters_per_second: The wanted rate; English is read at about 15.
        name: Column of tables.
    """

    model_hash = "speaking rate"
    worst_score = -1000.0
    needs_text = True
    needs_reference = False
    judges_partial = False

    def __init__(self, characters_per_second: float = 0.0, name: str = "speaking rate") -> None:
        if characters_per_second < 0:
            raise ValueError(f"Expected `characters_per_second` to be at least 0, but got {characters_per_second}.")
        self.characters_per_second, self.name = characters_per_second, name

    @property
    def settings(self) -> dict[str, float]:
        """What decides the score."""
        return {"characters_per_second": self.characters_per_second}

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        """(N,) float64, at most 0."""
        num_characters = len(prompt.text.strip())
        rates = [
            num_characters / candidate.audio.seconds if candidate.audio and candidate.audio.seconds else float("nan")
            for candidate in candidates
        ]
        return -(torch.tensor(rates, dtype=torch.float64) - self.characters_per_second).abs()

    def flops(self, seconds: float) -> float:
        """Nothing."""
        return 0.0
