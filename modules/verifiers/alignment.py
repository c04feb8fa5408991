"""AlignmentScore: how well the words of a text fit a recording, by forced alignment."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from modules.api import Audio, Candidate, Prompt, VerifierFacts
from modules.audio import checked
from modules.verifiers.audio import BatchVerifier
from modules.verifiers.model_files import content_hash, package_folder

READING = 2  # raised whenever the words or phonemes of a text change, so that stored scores are not mixed
WORST_SCORE = -10.0  # log probability per frame; of texts that cannot be aligned at all


class Aligner(Protocol):
    """Aligns known words (modules.frontend.alignment.PhonemeAligner)."""

    pronounce: Callable[[str], list[tuple[str, ...]]]
    silence_probability: float

    def fit(self, audio: Audio, words: Sequence[str]) -> float:
        """Mean log probability per frame of the words, relative to the best state; raises ValueError if they cannot be
        aligned."""
        ...


class AlignmentScore(BatchVerifier):
    """Mean log probability per frame of the text's words under CMU Sphinx's acoustic model (GMM-HMM), aligned with the
    audio: at most 0, higher is better. Independent of Whisper, and much cheaper than a recogniser: about a hundredth of
    real time. WORST_SCORE for a text that cannot be aligned.

    Args:
        aligner: Aligns the words.
        words: Gives the words of a text, such as modules.frontend.phonemes.spoken_words.
        name: Column name in tables.
    """

    def __init__(self, aligner: Aligner, words: Callable[[str], list[str]], name: str = "alignment") -> None:
        super().__init__(name)
        self.aligner, self.words = aligner, words

    @cached_property
    def facts(self) -> VerifierFacts:
        folder = package_folder("pocketsphinx", "pocketsphinx") / "model" / "en-us" / "en-us"
        return VerifierFacts(
            name=self.name,
            # That of modules.verifiers.recognisers.pocketsphinx: the same acoustic model.
            model_hash=content_hash(sorted(file for file in folder.iterdir() if file.name != "README")),
            settings={
                "pronounce": self.aligner.pronounce.__qualname__,
                "silence_probability": self.aligner.silence_probability,
                "words": self.words.__qualname__,
                "reading": READING,
            },
            families=frozenset({"pocketsphinx"}),
            worst_score=WORST_SCORE,
            best_score=0.0,
            reaches_ends=False,
            needs_text=True,
            needs_reference=False,
        )

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[Tensor]:
        """`score` of many prompts, in [WORST_SCORE, 0]; NaN without enough audio. Raises ValueError for a text without
        words that can be pronounced."""
        return [self._scores(prompt, group) for prompt, group in zip(prompts, groups, strict=True)]

    def _scores(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        words = self.words(prompt.text)
        if not words:
            raise ValueError(f"Expected the text of prompt {prompt.key!r} to hold words, but got {prompt.text!r}.")
        for word in words:
            self.aligner.pronounce(word)  # raises here, instead of giving every candidate the worst score
        scores = torch.full((len(candidates),), float("nan"), dtype=torch.float64)
        for index, candidate in enumerate(candidates):
            try:
                audio = checked(candidate.audio)
            except ValueError as error:
                self._failures.add(error)
                continue
            try:
                scores[index] = min(0.0, max(WORST_SCORE, self.aligner.fit(audio, words)))
            except ValueError:
                scores[index] = WORST_SCORE
        return scores

    def flops(self, seconds: float) -> float:
        """100 frames a second x every Gaussian of the acoustic model (4-byte means; 3 operations per dimension)."""
        folder = package_folder("pocketsphinx", "pocketsphinx") / "model" / "en-us" / "en-us"
        return 100 * seconds * 3 * (folder / "means").stat().st_size / 4
