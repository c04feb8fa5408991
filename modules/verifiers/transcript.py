"""Whether a candidate says its text: a recogniser writes down what it hears, which is compared with the text."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from modules.api import BROKEN_INSTALLATION, Audio, Candidate, Prompt
from modules.verifiers.audio import Failures, audio_hash, checked, failed, raise_passing, regrouped, resampled
from modules.verifiers.recognisers.normalise import Normaliser
from modules.verifiers.settings import constructor_settings

MAX_CACHED_TEXTS = 100_000


class Recogniser(Protocol):
    """Audio to text. What it writes counts as heard, so it writes no tags such as [noise] or (music)."""

    @property
    def model_hash(self) -> str: ...
    @property
    def families(self) -> frozenset[str]: ...
    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        """One text per clip, which does not depend on the other clips; raises what the model raises."""
        ...

    def flops(self, seconds: float) -> float: ...


def error_rate(reference: str, hypothesis: str, unit: Literal["word", "character"]) -> float:
    """Edit distance / length of the reference, over words or characters (jiwer); above 1 when much is inserted.

    Raises:
        ValueError: The reference is empty.
    """
    import jiwer

    if not reference.strip():
        raise ValueError(f"Expected `reference` to hold at least one {unit}, but got {reference!r}.")
    return float((jiwer.wer if unit == "word" else jiwer.cer)(reference, hypothesis))


def prefix_error_rate(reference: str, hypothesis: str, unit: Literal["word", "character"]) -> float:
    """Edit distance to the prefix of the reference that is nearest / length of the whole reference.

    The errors that a hypothesis of partial audio has made already, on the scale of `error_rate`: what follows can only
    add to them. Nothing heard yet is no error. Raises ValueError where the reference is empty.
    """
    expected = reference.split() if unit == "word" else list(reference)
    heard = hypothesis.split() if unit == "word" else list(hypothesis)
    if not expected:
        raise ValueError(f"Expected `reference` to hold at least one {unit}, but got {reference!r}.")
    distances = list(range(len(expected) + 1))  # to every prefix, of what was heard so far
    for number, one in enumerate(heard, 1):
        previous, distances = distances, [number]
        for place, other in enumerate(expected, 1):
            change = previous[place - 1] + (one != other)
            distances.append(min(change, previous[place] + 1, distances[-1] + 1))
    return min(distances) / len(expected)


def heard_audio(prompt: Prompt, candidate: Candidate) -> Audio | None:
    """The candidate; after the recording that it continues, where the prompt's text begins with that one's words."""
    audio, voice, reference = candidate.audio, prompt.voice, prompt.reference
    is_continued = voice is not None and not voice.text
    if not is_continued or reference is None or audio is None:
        return audio
    recording_T = torch.from_numpy(resampled(reference, audio.sample_rate))
    return Audio(torch.cat([recording_T, audio.samples_T.detach().float().cpu()]), audio.sample_rate)


class Transcript:
    """1 - min(1, error rate) between the prompt's text and what a recogniser hears: 1.0 is every word, 0.0 none.

    Both texts pass the normaliser first. What was heard is kept by the hash of the audio, so scoring again, or several
    candidates with the same audio, costs nothing. NaN where there is too little to hear. Of a partial candidate only
    the best prefix of the text is expected (`prefix_error_rate`). One that continues a recording is heard after it,
    against the whole text.

    Args:
        recogniser: Such as FasterWhisper() or Pocketsphinx().
        normaliser: Such as SpokenEnglish(), BasicWords() or Digits().
        unit: Count words or characters. Words are what spaces part: count characters where there are none (Chinese,
            Japanese, Thai: a sentence would be one word, right or wrong) and with Digits(), one string of digits.
        name: Column of tables.
    """

    worst_score, best_score = 0.0, 1.0
    needs_text = True
    needs_reference = False
    judges_partial = True

    def __init__(
        self,
        recogniser: Recogniser,
        normaliser: Normaliser,
        unit: Literal["word", "character"] = "word",
        name: str = "transcript",
    ) -> None:
        if unit not in ("word", "character"):
            raise ValueError(f"Expected `unit` to be word or character, but got {unit!r}.")
        self.recogniser = recogniser
        self.normaliser = normaliser
        self.unit = unit
        self.name = name
        self._failures = Failures(name)
        self._texts: OrderedDict[tuple[str, str], str] = OrderedDict()

    @property
    def model_hash(self) -> str:
        return self.recogniser.model_hash

    @property
    def families(self) -> frozenset[str]:
        return self.recogniser.families

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the score beside the model: kept with stored scores and printed in reports."""
        return {
            "normaliser": self.normaliser.name,
            "normaliser_identity": self.normaliser.identity,
            "unit": self.unit,
            **constructor_settings(self.recogniser),
        }

    @property
    def num_failures(self) -> int:
        return self._failures.count

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        """(N,) float64 in [0, 1]. Raises ValueError where the prompt's text normalises to nothing, and what the
        recogniser raised but for ValueError; what it heard is kept."""
        return self.score_many([prompt], [candidates])[0]

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[Tensor]:
        """`score` of many prompts: what is new to the cache is recognised in one call for each language."""
        for prompt in prompts:
            if not self.reference_length(prompt):
                raise ValueError(
                    f"Expected the text of prompt {prompt.key!r} to hold at least one {self.unit}, but the normaliser "
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
        """Words or characters of the prompt's text, as they are counted; 0 where it normalises to nothing."""
        text = self.normaliser(prompt.text).strip()
        return len(text.split()) if self.unit == "word" else len(text)

    def hypotheses(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[str]:
        """What the recogniser heard, as it wrote it; empty where there is nothing to hear. Raises as `score` does."""
        return ["" if isinstance(text, ValueError) else text for text in self._heard([prompt], [candidates])[0]]

    def flops(self, seconds: float) -> float:
        """One pass of the recogniser."""
        return self.recogniser.flops(seconds)

    def _heard(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[list[str | ValueError]]:
        """The texts of each group, from the cache where they are there; the new ones are recognised together."""
        keys: list[tuple[str, str] | ValueError] = []
        clips: dict[tuple[str, str], Audio] = {}
        for prompt, group in zip(prompts, groups, strict=True):
            for candidate in group:
                try:
                    clip = checked(heard_audio(prompt, candidate))
                    keys.append(key := (audio_hash(clip), prompt.language))
                    clips[key] = clip
                except ValueError as error:
                    keys.append(error)
        found: dict[tuple[str, str], str | Exception] = {key: self._texts[key] for key in clips if key in self._texts}
        for language in dict.fromkeys(language for _, language in clips):
            new = [key for key in clips if key not in found and key[1] == language]
            found.update(zip(new, self._recognise([clips[key] for key in new], language), strict=True))
        self._texts.update((key, text) for key in clips if isinstance(text := found[key], str))
        while len(self._texts) > MAX_CACHED_TEXTS:
            self._texts.popitem(last=False)
        raise_passing(found.values())
        return regrouped([key if isinstance(key, ValueError) else found[key] for key in keys], groups)

    def _recognise(self, audios: Sequence[Audio], language: str) -> list[str | Exception]:
        """All clips in one call; where that fails, half of them at a time, to find those that fail."""
        if not audios:
            return []
        try:
            return list(self.recogniser.transcribe(audios, language))
        except BROKEN_INSTALLATION:
            raise
        except Exception as error:  # noqa: BLE001 - the clips that it is about are found first
            if len(audios) == 1:
                return [failed(error)]
        half = len(audios) // 2
        return [*self._recognise(audios[:half], language), *self._recognise(audios[half:], language)]
