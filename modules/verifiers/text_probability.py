"""TextProbability: how probable a recogniser finds the text, given the recording."""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from modules.api import Audio, Candidate, Prompt, VerifierFacts
from modules.audio import checked
from modules.settings import constructor_settings
from modules.verifiers.audio import BatchVerifier
from modules.verifiers.transcript import heard_audio

WORST_SCORE = -20.0  # nats per token; tokens drawn from a vocabulary of 32,768 at random have -10.4


class Reader(Protocol):
    """A recogniser that writes tokens one after the other (modules.verifiers.recognisers.moonshine.Moonshine)."""

    @property
    def model_hash(self) -> str: ...
    @property
    def families(self) -> frozenset[str]: ...
    def log_probabilities(self, audios: Sequence[Audio], text: str, language: str) -> list[np.ndarray]:
        """For each clip log P(token | earlier tokens, clip) of the text's tokens and of its end, in nats."""
        ...

    def flops(self, seconds: float) -> float: ...


class TextProbability(BatchVerifier):
    """Mean log probability per token (nats) that a recogniser gives to the prompt's text after it heard the audio.

    At most 0. A transcript tells which words the recogniser would write; this tells how nearly it would write those of
    the text, so that it ranks candidates with equal transcripts too. It costs one pass of the decoder in place of one
    for each token. Candidates of one prompt are ranked by the probability of the whole text.

    Args:
        recogniser: Computes the probabilities.
        name: Column name in tables.
    """

    def __init__(self, recogniser: Reader, name: str = "text_probability") -> None:
        super().__init__(name)
        self.recogniser = recogniser

    @cached_property
    def facts(self) -> VerifierFacts:
        return VerifierFacts(
            name=self.name,
            model_hash=self.recogniser.model_hash,
            settings={"of": "text", **constructor_settings(self.recogniser)},
            families=self.recogniser.families,
            worst_score=WORST_SCORE,
            best_score=0.0,
            reaches_ends=False,
            needs_text=True,
            needs_reference=False,
        )

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[Tensor]:
        """`score` of many prompts, in [WORST_SCORE, 0]; NaN without enough audio.

        Raises:
            ValueError: A prompt without text, or a language that the recogniser does not know.
        """
        return [self._scores(prompt, group) for prompt, group in zip(prompts, groups, strict=True)]

    def _scores(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        if not prompt.text.strip():
            raise ValueError(f"Expected prompt {prompt.key!r} to have a text, but got {prompt.text!r}.")
        clips: dict[int, Audio] = {}
        for index, candidate in enumerate(candidates):
            try:
                clips[index] = checked(heard_audio(prompt, candidate))
            except ValueError as error:
                self._failures.add(error)
        scores = torch.full((len(candidates),), float("nan"), dtype=torch.float64)
        found = self.recogniser.log_probabilities(list(clips.values()), prompt.text, prompt.language)
        for index, log_probabilities_S in zip(clips, found, strict=True):
            scores[index] = max(WORST_SCORE, float(log_probabilities_S.mean()))
        return scores

    def flops(self, seconds: float) -> float:
        """FLOPs of one pass of the recogniser."""
        return self.recogniser.flops(seconds)
