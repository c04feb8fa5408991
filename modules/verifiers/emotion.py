"""Emotion verifiers: a classifier's probability of a label, or similarity to a reference."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from modules.api import Audio, Candidate, Prompt
from modules.verifiers.audio import ContentCache, Failures, reference_similarities, scores_of_groups
from modules.verifiers.embeddings.audio_models import AudioModel, mean_hidden
from modules.verifiers.settings import constructor_settings


class EmotionLabel:
    """Probability of one label, by any audio classifier of transformers.

    Args:
        model: A folder, or a name on the hub.
        label: Label name in the model's configuration (`id2label`).
        name: Column name in tables.
        device: Device of the model.
        batch_size: Clips per batch.
        families: Model families, for reports; None: the model type in its configuration.

    Raises:
        ValueError: At the first score, if the model has no such label.
    """

    worst_score, best_score = 0.0, 1.0
    needs_text = False
    needs_reference = False
    judges_partial = True

    def __init__(
        self,
        model: str,
        label: str,
        name: str = "emotion",
        device: str = "cpu",
        batch_size: int = 16,
        families: list[str] | None = None,
    ) -> None:
        self.label, self.name = label, name
        self._audio_model = AudioModel(model, "AutoModelForAudioClassification", device, batch_size, families)
        self._failures = Failures(name)
        self._scores = ContentCache(self._judge_all)

    @property
    def model_hash(self) -> str:
        return self._audio_model.model_hash

    @property
    def files_hash(self) -> str:
        return self._audio_model.files_hash

    @property
    def families(self) -> frozenset[str]:
        return self._audio_model.families

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that determine the score besides the model."""
        return constructor_settings(self)

    @property
    def num_failures(self) -> int:
        return self._failures.count

    @property
    def _place(self) -> int:
        labels = {name: int(place) for place, name in self._audio_model.config.id2label.items()}
        if self.label not in labels:
            raise ValueError(f"Expected `label` to be one of {sorted(labels)}, but got {self.label!r}.")
        return labels[self.label]

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        """(N,) float64 in [0, 1]."""
        return self.score_many([prompt], [candidates])[0]

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[Tensor]:
        """`score` of many prompts: all clips in one batch."""
        self._place  # noqa: B018 - a wrong label must stop the sweep, not count as failures
        return scores_of_groups(self._scores, groups, self._failures)

    def _judge_all(self, audios: list[Audio]) -> list[float | Exception]:
        return self._audio_model.judge(audios, lambda output, _: output.logits.softmax(-1)[:, self._place].tolist())

    def flops(self, seconds: float) -> float:
        return self._audio_model.flops(seconds)


class EmotionSimilarity:
    """Cosine between the mean hidden states of a candidate and of `prompt.reference`, in any audio encoder.

    With emotion2vec or a model fine-tuned for emotions this is the similarity of Llasa's table 4 (arXiv 2502.04128).

    Args:
        model: A folder, or a name on the hub.
        name: Column name in tables.
        device: Device of the model.
        batch_size: Clips per batch.
        families: Model families, for reports; None: the model type in its configuration.
    """

    worst_score, best_score = -1.0, 1.0
    needs_text = False
    needs_reference = True
    judges_partial = True

    def __init__(
        self,
        model: str,
        name: str = "emotion",
        device: str = "cpu",
        batch_size: int = 16,
        families: list[str] | None = None,
    ) -> None:
        self.name = name
        self._audio_model = AudioModel(model, "AutoModel", device, batch_size, families)
        self._failures = Failures(name)
        self._directions = ContentCache(self._embed)

    @property
    def model_hash(self) -> str:
        return self._audio_model.model_hash

    @property
    def files_hash(self) -> str:
        return self._audio_model.files_hash

    @property
    def families(self) -> frozenset[str]:
        return self._audio_model.families

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that determine the score besides the model."""
        return constructor_settings(self)

    @property
    def num_failures(self) -> int:
        return self._failures.count

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        """(N,) float64 in [-1, 1]; NaN without a reference or without audio."""
        return self.score_many([prompt], [candidates])[0]

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[Tensor]:
        """`score` of many prompts: all clips and references in one batch."""
        return reference_similarities(self._directions, prompts, groups, self._failures)

    def _embed(self, audios: list[Audio]) -> list[np.ndarray | Exception]:
        def read(output: Any, num_samples: Sequence[int]) -> list[np.ndarray]:
            return mean_hidden(self._audio_model.network, output.last_hidden_state.float(), num_samples)

        return self._audio_model.judge(audios, read)

    def flops(self, seconds: float) -> float:
        """FLOPs of one pass over the candidate; the reference is processed once per prompt and not counted."""
        return self._audio_model.flops(seconds)
