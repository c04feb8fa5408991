"""Speaker similarity: cosine similarity of speaker embeddings.

T audio samples, W windows, F mel frames, D embedding dimensions.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from modules.api import Audio, Candidate, Prompt
from modules.verifiers.audio import ContentCache, Failures, reference_similarities
from modules.verifiers.embeddings.audio_models import AudioModel
from modules.verifiers.settings import constructor_settings

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


class XVector:
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

    @property
    def model_hash(self) -> str:
        return self._audio_model.model_hash

    @property
    def files_hash(self) -> str:
        return self._audio_model.files_hash

    @property
    def families(self) -> frozenset[str]:
        return self._audio_model.families

    def embed(self, audios: Sequence[Audio | None]) -> list[np.ndarray | Exception]:
        """One (D,) float32 of length 1 per clip, or the exception if it failed."""
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

    def flops(self, seconds: float) -> float:
        return self._audio_model.flops(seconds)


def _directions(output: Any, num_samples: Sequence[int]) -> list[np.ndarray]:
    return list(torch.nn.functional.normalize(output.embeddings.float(), dim=-1).cpu().numpy())


class Speaker:
    """Cosine similarity between a candidate's voice and that of `prompt.reference`; NaN if either is missing.

    Embeddings are cached by the hash of the audio. The similarity is specific to the encoder; it is comparable between
    systems only with the same encoder and the same references.

    Args:
        encoder: Speaker encoder, such as Resemblyzer().
        name: Column name in tables.
    """

    worst_score, best_score = -1.0, 1.0
    needs_text = False
    needs_reference = True
    judges_partial = True

    def __init__(self, encoder: SpeakerEncoder, name: str = "speaker") -> None:
        self.encoder = encoder
        self.name = name
        self._failures = Failures(name)
        self._embeddings = ContentCache(encoder.embed)

    @property
    def model_hash(self) -> str:
        return self.encoder.model_hash

    @property
    def families(self) -> frozenset[str]:
        return self.encoder.families

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that determine the score besides the model."""
        return constructor_settings(self.encoder)

    @property
    def num_failures(self) -> int:
        return self._failures.count

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        """(N,) float64 in [-1, 1]."""
        return self.score_many([prompt], [candidates])[0]

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[Tensor]:
        """`score` of many prompts: all clips and references in one batch."""
        return reference_similarities(self._embeddings, prompts, groups, self._failures)

    def flops(self, seconds: float) -> float:
        """FLOPs of one pass over the candidate; the reference is processed once per prompt and not counted."""
        return self.encoder.flops(seconds)
