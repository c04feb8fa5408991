"""Emotion verifiers: a classifier's probability of a label, or similarity to a reference."""

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from modules.api import Audio, Candidate, Prompt, VerifierFacts
from modules.settings import constructor_settings
from modules.verifiers.audio import ClipVerifier
from modules.verifiers.embeddings.audio_models import AudioModel, UsesAudioModel
from modules.verifiers.speaker import MeanHidden, Speaker


class EmotionLabel(UsesAudioModel, ClipVerifier):
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

    def __init__(
        self,
        model: str,
        label: str,
        name: str = "emotion",
        device: str = "cpu",
        batch_size: int = 16,
        families: list[str] | None = None,
    ) -> None:
        super().__init__(name)
        self.label = label
        self._audio_model = AudioModel(model, "AutoModelForAudioClassification", device, batch_size, families)

    @cached_property
    def facts(self) -> VerifierFacts:
        return VerifierFacts(
            name=self.name,
            model_hash=self.model_hash,
            settings=constructor_settings(self),
            families=self.families,
            worst_score=0.0,
            best_score=1.0,
            needs_text=False,
            needs_reference=False,
            judges_partial=True,
        )

    @property
    def _place(self) -> int:
        labels = {name: int(place) for place, name in self._audio_model.config.id2label.items()}
        if self.label not in labels:
            raise ValueError(f"Expected `label` to be one of {sorted(labels)}, but got {self.label!r}.")
        return labels[self.label]

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[Tensor]:
        """`score` of many prompts, in [0, 1]: all clips in one batch."""
        self._place  # noqa: B018 - a wrong label must stop the sweep, not count as failures
        return super().score_many(prompts, groups)

    def _judge_all(self, audios: list[Audio]) -> list[float | Exception]:
        return self._audio_model.judge(audios, lambda output, _: output.logits.softmax(-1)[:, self._place].tolist())


class EmotionSimilarity(Speaker):
    """Cosine between the mean hidden states of a candidate and of `prompt.reference`, in any audio encoder.

    With emotion2vec or a model fine-tuned for emotions this is the similarity of Llasa's table 4 (arXiv 2502.04128).

    Args:
        model: A folder, or a name on the hub.
        name: Column name in tables.
        device: Device of the model.
        batch_size: Clips per batch.
        families: Model families, for reports; None: the model type in its configuration.
    """

    def __init__(
        self,
        model: str,
        name: str = "emotion",
        device: str = "cpu",
        batch_size: int = 16,
        families: list[str] | None = None,
    ) -> None:
        super().__init__(MeanHidden(model, device, batch_size, families), name)
