"""Speaker similarity: cosine similarity of speaker embeddings.

T audio samples, W windows, F mel frames, D embedding dimensions.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from modules.api import Audio, Candidate, Prompt, VerifierFacts
from modules.settings import constructor_settings
from modules.verifiers.audio import BatchVerifier, ContentCache, regrouped, scores_or_nan
from modules.verifiers.embeddings.audio_models import AudioModel, UsesAudioModel, mean_hidden

SAMPLE_RATE = 16_000


class SpeakerEncoder(Protocol):
    """Maps audio to a speaker embedding of length 1."""

    @property
    def model_hash(self) -> str: ...
    @property
    def families(self) -> frozenset[str]: ...
    def embed(self, audios: Sequence[Audio | None]) -> list[np.ndarray | Exception]:
        """One (D,) float32 of length 1 per clip, or the exception if it failed."""
        ...

    def flops(self, seconds: float) -> float: ...


class XVector(UsesAudioModel):
    """A speaker model of transformers, such as WavLM-SV (Chen et al., arXiv 2110.13900): WavLMForXVector and similar.

    Seed-TTS-eval's similarity uses a fine-tuned WavLM large with an ECAPA head, which transformers does not have:
    numbers of this class are not comparable with those tables (embeddings/wavlm_speaker.py has that encoder).

    Args:
        model: A folder, or a name on the hub such as microsoft/wavlm-base-plus-sv.
        device: Device of the model.
        batch_size: Clips per batch.
        families: Model families, for reports; None: the model type in its configuration.
    """

    def __init__(
        self, model: str, device: str = "cpu", batch_size: int = 16, families: list[str] | None = None
    ) -> None:
        self._audio_model = AudioModel(model, "AutoModelForAudioXVector", device, batch_size, families)

    def embed(self, audios: Sequence[Audio | None]) -> list[np.ndarray | Exception]:
        """One (D,) float32 of length 1 per clip, or a ValueError for a clip that is too short or not finite. Exceptions
        of the network propagate."""
        return self._audio_model.judge(audios, _directions, self._min_samples)

    @cached_property
    def _min_samples(self) -> int:
        """Shortest clip that leaves two frames after the time-delay layers, as needed for a deviation over time."""
        config = self._audio_model.config
        number = 2 + sum((k - 1) * d for k, d in zip(config.tdnn_kernel, config.tdnn_dilation, strict=True))
        if hasattr(config, "conv_kernel"):  # otherwise the network's input is features, not samples
            for k, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
                number = (number - 1) * stride + k
        return number


def _directions(output: Any, num_samples: Sequence[int]) -> list[np.ndarray]:
    return list(torch.nn.functional.normalize(output.embeddings.float(), dim=-1).cpu().numpy())


class MeanHidden(UsesAudioModel):
    """Mean hidden state of any audio encoder of transformers, normalised: what `EmotionSimilarity` compares.

    Args:
        model: A folder, or a name on the hub.
        device: Device of the model.
        batch_size: Clips per batch.
        families: Model families, for reports; None: the model type in its configuration.
    """

    def __init__(
        self, model: str, device: str = "cpu", batch_size: int = 16, families: list[str] | None = None
    ) -> None:
        self._audio_model = AudioModel(model, "AutoModel", device, batch_size, families)

    def embed(self, audios: Sequence[Audio | None]) -> list[np.ndarray | Exception]:
        """One (D,) float32 of length 1 per clip, or a ValueError for a clip that is too short or not finite. Exceptions
        of the network propagate."""
        return self._audio_model.judge(audios, self._means)

    def _means(self, output: Any, num_samples: Sequence[int]) -> list[np.ndarray]:
        return mean_hidden(self._audio_model.network, output.last_hidden_state.float(), num_samples)


class Speaker(BatchVerifier):
    """Cosine similarity between a candidate's voice and that of the recording, in [-1, 1].

    The recording is `prompt.reference`. NaN if either is missing or cannot be embedded.

    Embeddings are cached by the hash of the audio. The similarity is specific to the encoder; it is comparable between
    systems only with the same encoder and the same references.

    Args:
        encoder: Speaker encoder, such as Resemblyzer().
        name: Column name in tables.
    """

    def __init__(self, encoder: SpeakerEncoder, name: str = "speaker") -> None:
        super().__init__(name)
        self.encoder = encoder
        self._embeddings = ContentCache(encoder.embed)

    @cached_property
    def facts(self) -> VerifierFacts:
        return VerifierFacts(
            name=self.name,
            model_hash=self.encoder.model_hash,
            settings=constructor_settings(self.encoder),
            families=self.encoder.families,
            worst_score=-1.0,
            best_score=1.0,
            reaches_ends=False,
            needs_text=False,
            needs_reference=True,
            judges_partial=True,
        )

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[Tensor]:
        """`score` of many prompts: all clips and references in one batch."""
        references = [prompt.reference for prompt in prompts]
        embedded = self._embeddings([*references, *(candidate.audio for group in groups for candidate in group)])
        own = regrouped(embedded[len(references) :], groups)
        return [
            scores_or_nan([_cosine(reference, one) for one in group], self._failures)
            for reference, group in zip(embedded[: len(references)], own, strict=True)
        ]

    def flops(self, seconds: float) -> float:
        """FLOPs of one pass over the candidate; the reference is processed once per prompt and not counted."""
        return self.encoder.flops(seconds)


def _cosine(first: Any, second: Any) -> float | Exception:
    failed = next((one for one in (first, second) if isinstance(one, Exception)), None)
    return float(np.dot(first, second)) if failed is None else failed
