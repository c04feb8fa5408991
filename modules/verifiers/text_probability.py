"""TextProbability: how probable a recogniser finds the text, given the recording."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from modules.api import Audio, Candidate, Prompt, VerifierFacts
from modules.audio import checked
from modules.settings import constructor_settings
from modules.verifiers.audio import BatchVerifier, scores_or_nan
from modules.verifiers.transcript import heard_audio

READING = 1  # raised whenever a score of the same audio and text changes, so that stored scores are not mixed
WORST_SCORE = -20.0  # nats per token, below what a wrong text has; tokens drawn at random have -10.4


class Reader(Protocol):
    """A recogniser that writes tokens one after the other (modules.verifiers.recognisers.moonshine.Moonshine)."""

    @property
    def model_hash(self) -> str: ...
    @property
    def families(self) -> frozenset[str]: ...
    @property
    def max_seconds(self) -> float: ...
    def log_probabilities(self, audios: Sequence[Audio], texts: Sequence[str], language: str) -> list[np.ndarray]:
        """For each clip log P(token | earlier tokens, clip) of its text's tokens and of the end, in nats. Raises
        ValueError for a language that the recogniser does not know."""
        ...

    def flops(self, seconds: float) -> float: ...


class TextProbability(BatchVerifier):
    """Mean log probability per token (nats) that a recogniser gives to the prompt's text after it heard the audio.

    At most 0. A transcript tells which words the recogniser would write; this tells how nearly it would write those of
    the text, so that it ranks candidates with equal transcripts too. It costs one pass of the decoder in place of one
    for each token. It compares candidates of one prompt: some texts are more probable than others, whoever reads them.
    NaN for silence, for clips longer than the recogniser's range, and in a language that it does not know.

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
            settings={"reading": READING, **constructor_settings(self.recogniser)},
            families=self.recogniser.families,
            worst_score=WORST_SCORE,
            best_score=0.0,
            reaches_ends=False,
            needs_text=True,
            needs_reference=False,
        )

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[Tensor]:
        """`score` of many prompts, in [WORST_SCORE, 0]: all clips of a language in one call of the recogniser.

        Raises:
            ValueError: A prompt's text has no letter and no figure.
        """
        for prompt in prompts:
            if not any(character.isalnum() for character in prompt.text):
                raise ValueError(f"Expected the text of prompt {prompt.key!r} to hold words, but got {prompt.text!r}.")
        scores = [torch.full((len(group),), float("nan"), dtype=torch.float64) for group in groups]
        places: dict[str, list[tuple[int, int]]] = defaultdict(list)
        clips: dict[tuple[int, int], Audio] = {}
        for row, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
            for index, candidate in enumerate(group):
                try:
                    clips[row, index] = self._audible(prompt, candidate)
                    places[prompt.language].append((row, index))
                except ValueError as error:
                    self._failures.add(error)
        for language, own in places.items():
            texts = [prompts[row].text for row, _ in own]
            try:
                found = self.recogniser.log_probabilities([clips[place] for place in own], texts, language)
            except ValueError as error:  # about the language
                for _ in own:
                    self._failures.add(error)
                continue
            for (row, index), score in zip(
                own, scores_or_nan([one.mean() for one in found], self._failures), strict=True
            ):
                scores[row][index] = score.clamp(min=WORST_SCORE)
        return scores

    def _audible(self, prompt: Prompt, candidate: Candidate) -> Audio:
        """The candidate's audio; raises ValueError if the recogniser cannot tell what it says."""
        audio = checked(heard_audio(prompt, candidate))
        if not bool(audio.samples_T.any()):
            raise ValueError("Expected `audio` that is not silent, but got silence.")
        if audio.seconds > self.recogniser.max_seconds:
            raise ValueError(f"Expected at most {self.recogniser.max_seconds} s, but got {audio.seconds:.1f} s.")
        return audio

    def flops(self, seconds: float) -> float:
        """FLOPs of one pass of the recogniser."""
        return self.recogniser.flops(seconds)
