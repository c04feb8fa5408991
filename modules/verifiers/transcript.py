"""Transcript: error rate between the text and a recogniser's transcript of a candidate."""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from modules.api import Audio, Candidate, Prompt, VerifierFacts
from modules.audio import resampled
from modules.recognition import Normaliser, Recogniser, error_rate
from modules.settings import constructor_settings
from modules.verifiers.audio import BatchVerifier, ContentCache, failed, regrouped

MAX_CACHED_TEXTS = 100_000


def prefix_error_rate(reference: str, hypothesis: str, unit: Literal["word", "character"]) -> float:
    """Edit distance to the nearest prefix of the reference / length of the whole reference.

    The errors of a partial transcript so far, on the scale of `error_rate`: further audio can only add errors. An empty
    transcript has no errors.

    Raises:
        ValueError: The reference is empty.
    """
    expected = reference.split() if unit == "word" else list(reference)
    heard = hypothesis.split() if unit == "word" else list(hypothesis)
    if not expected:
        raise ValueError(f"Expected `reference` to hold at least one {unit}, but got {reference!r}.")
    distances = list(range(len(expected) + 1))  # from the transcript so far to every prefix
    for number, one in enumerate(heard, 1):
        previous, distances = distances, [number]
        for place, other in enumerate(expected, 1):
            change = previous[place - 1] + (one != other)
            distances.append(min(change, previous[place] + 1, distances[-1] + 1))
    return min(distances) / len(expected)


def heard_audio(prompt: Prompt, candidate: Candidate) -> Audio | None:
    """The candidate's audio, preceded by the recording that it continues if the prompt's text includes its words."""
    audio, voice, reference = candidate.audio, prompt.voice, prompt.reference
    is_continued = voice is not None and not voice.text
    if not is_continued or reference is None or audio is None:
        return audio
    recording_T = torch.from_numpy(resampled(reference, audio.sample_rate))
    return Audio(torch.cat([recording_T, audio.samples_T.detach().float().cpu()]), audio.sample_rate)


class Transcript(BatchVerifier):
    """1 - min(1, error rate) between the prompt's text and a recogniser's transcript: 1.0 is perfect, 0.0 the worst.

    Both texts are normalised first. Transcripts are cached by the hash of the audio, so scoring again, or several
    candidates with the same audio, costs nothing. NaN if there is too little audio. A partial candidate is compared
    with the best prefix of the text (`prefix_error_rate`). A candidate that continues a recording is transcribed
    together with it and compared with the whole text.

    Args:
        recogniser: Speech recogniser, such as FasterWhisper() or Pocketsphinx().
        normaliser: Text normaliser, such as SpokenEnglish(), BasicWords() or Digits().
        unit: Count words or characters. Words are separated by spaces: count characters in scripts without spaces
            (Chinese, Japanese, Thai: a sentence would be one word) and with Digits(), which gives one string of digits.
        name: Column name in tables.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        normaliser: Normaliser,
        unit: Literal["word", "character"] = "word",
        name: str = "transcript",
    ) -> None:
        if unit not in ("word", "character"):
            raise ValueError(f"Expected `unit` to be word or character, but got {unit!r}.")
        super().__init__(name)
        self.recogniser = recogniser
        self.normaliser = normaliser
        self.unit = unit
        self._texts = ContentCache(self._recognise, MAX_CACHED_TEXTS)

    @cached_property
    def facts(self) -> VerifierFacts:
        return VerifierFacts(
            name=self.name,
            model_hash=self.recogniser.model_hash,
            settings={
                "normaliser": self.normaliser.name,
                "normaliser_identity": self.normaliser.identity,
                "unit": self.unit,
                **constructor_settings(self.recogniser),
            },
            families=self.recogniser.families,
            worst_score=0.0,
            best_score=1.0,
            needs_text=True,
            needs_reference=False,
            judges_partial=True,
        )

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[Tensor]:
        """`score` of many prompts, in [0, 1]: clips that are not cached are recognised in one call per language.
        Transcripts are cached even if an exception is raised.

        Raises:
            ValueError: The prompt's text is empty after normalisation.
            Exception: Exceptions of the recogniser other than ValueError.
        """
        for prompt in prompts:
            if not self.reference_length(prompt):
                raise ValueError(
                    f"Expected the text of prompt {prompt.key!r} to have at least one {self.unit}, but the normaliser "
                    f"{self.normaliser.name!r} leaves nothing of {prompt.text!r}."
                )
        return [self._compared(*one) for one in zip(prompts, groups, self._heard(prompts, groups), strict=True)]

    def _compared(self, prompt: Prompt, candidates: Sequence[Candidate], texts: Sequence[str | ValueError]) -> Tensor:
        reference = self.normaliser(prompt.text)
        scores = torch.full((len(candidates),), float("nan"), dtype=torch.float64)
        for index, heard in enumerate(texts):
            try:
                if isinstance(heard, ValueError):
                    raise heard
                rate = prefix_error_rate if candidates[index].is_partial else error_rate
                scores[index] = 1 - min(1.0, rate(reference, self.normaliser(heard), self.unit))
            except ValueError as error:
                self._failures.add(error)
        return scores

    def reference_length(self, prompt: Prompt) -> int:
        """Number of words or characters of the prompt's normalised text; 0 if it is empty."""
        text = self.normaliser(prompt.text).strip()
        return len(text.split()) if self.unit == "word" else len(text)

    def hypotheses(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[str]:
        """The recogniser's transcripts without normalisation; empty without audio. Raises as `score` does."""
        return ["" if isinstance(text, ValueError) else text for text in self._heard([prompt], [candidates])[0]]

    def flops(self, seconds: float) -> float:
        """FLOPs of one pass of the recogniser."""
        return self.recogniser.flops(seconds)

    def _heard(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[list[str | ValueError]]:
        """The transcripts of each group, from the cache if present; new clips are recognised in one batch."""
        tasks = [(prompt, candidate) for prompt, group in zip(prompts, groups, strict=True) for candidate in group]
        clips = [heard_audio(prompt, candidate) for prompt, candidate in tasks]
        return regrouped(self._texts(clips, [prompt.language for prompt, _ in tasks]), groups)

    def _recognise(self, audios: Sequence[Audio], language: str) -> list[str | Exception]:
        """Recognise all clips in one call. After a ValueError, which is about a clip, clip by clip; other exceptions
        propagate."""
        try:
            return list(self.recogniser.transcribe(audios, language))
        except ValueError as error:
            if len(audios) == 1:
                return [failed(error)]
        return [outcome for audio in audios for outcome in self._recognise([audio], language)]
