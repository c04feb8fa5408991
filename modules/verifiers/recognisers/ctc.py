"""CTC recognisers of transformers: wav2vec 2.0, HuBERT, WavLM and similar models."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from modules.api import Audio
from modules.verifiers.embeddings.audio_models import AudioModel, UsesAudioModel, unmasked_lengths


class CTC(UsesAudioModel):
    """Greedy CTC decoding (Graves et al. 2006): the most likely unit of every frame, without repeats and blanks.

    It has no language model that could add words that were not spoken, and its cost depends on the clip's length, while
    Whisper pads every clip to 30 s: recommended as a search reward.

    Args:
        model: A folder, or a name on the hub such as facebook/hubert-large-ls960-ft.
        languages: Supported languages; None accepts every language.
        device: Device of the model.
        batch_size: Clips per batch.
        families: Model families, for reports; None: the model type in its configuration.
    """

    def __init__(
        self,
        model: str,
        languages: list[str] | None = None,
        device: str = "cpu",
        batch_size: int = 16,
        families: list[str] | None = None,
    ) -> None:
        self.model, self.languages, self.device, self.batch_size = model, languages, device, batch_size
        self._audio_model = AudioModel(model, "AutoModelForCTC", device, batch_size, families)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._audio_model.folder)

    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        """One text per clip; raises ValueError for an unsupported language, and exceptions of single clips."""
        if self.languages is not None and language not in self.languages:
            raise ValueError(f"Expected `language` to be one of {self.languages}, but got {language!r}.")
        texts: list[str] = []
        for text in self._audio_model.judge(audios, self._texts):
            if isinstance(text, Exception):
                raise text
            texts.append(text)
        return texts

    def _texts(self, output: Any, num_samples: Sequence[int]) -> list[str]:
        units_BS = output.logits.argmax(-1).cpu()
        lengths = unmasked_lengths(self._audio_model.network, num_samples)
        return [
            self._tokenizer.decode(units_S[:length].tolist()) for units_S, length in zip(units_BS, lengths, strict=True)
        ]
