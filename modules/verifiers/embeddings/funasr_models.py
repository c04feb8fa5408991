"""Models of the package funasr: Paraformer (Chinese ASR) and emotion2vec (emotion embeddings).

Shapes: T audio samples, D embedding dimensions.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from modules.api import BROKEN_INSTALLATION, Audio
from modules.threads import torch_threads
from modules.verifiers.audio import checked, failed, resampled
from modules.verifiers.model_files import content_hash, model_folder, settings_hash

SAMPLE_RATE = 16_000
WEIGHT_FILES = ("*.pt", "*.pb", "*.safetensors")


class FunASRModel:
    """A model of funasr, loaded on first use.

    Args:
        model: A folder with the model's files, or a name on the hub.
        frames_per_second: Frame rate of the network, for its FLOPs: 2 per weight and frame.
        device: Device of the model.
    """

    def __init__(self, model: str, frames_per_second: float, device: str = "cpu") -> None:
        self.model, self.frames_per_second, self.device = model, frames_per_second, device

    @cached_property
    def _folder(self) -> Path:
        return model_folder(self.model, WEIGHT_FILES)

    @cached_property
    def model_hash(self) -> str:
        """Hash of the weights only. Raises FileNotFoundError if the folder has none."""
        for pattern in WEIGHT_FILES:
            if files := sorted(self._folder.glob(pattern)):
                return content_hash(files)
        raise FileNotFoundError(f"Expected weights ({' or '.join(WEIGHT_FILES)}) in {self._folder}, but found none.")

    @cached_property
    def files_hash(self) -> str:
        """Hash of the files besides the weights (settings_hash)."""
        return settings_hash(self._folder)

    @cached_property
    @torch_threads()
    def _network(self) -> Any:
        try:
            from funasr import AutoModel
        except ImportError as error:
            raise ImportError("This verifier needs funasr: pip install funasr") from error
        return AutoModel(model=str(self._folder), device=self.device, disable_update=True, disable_pbar=True)

    @torch_threads()
    def generate(self, audio: Audio | None, **options: Any) -> dict[str, Any]:
        """The model's output for one clip, processed alone so that it does not depend on others."""
        (output,) = self._network.generate(input=resampled(checked(audio), SAMPLE_RATE), **options)
        return output

    def flops(self, seconds: float) -> float:
        num_weights = sum(weight.numel() for weight in self._network.model.parameters())
        return 2.0 * num_weights * self.frames_per_second * max(0.0, seconds)


class Paraformer:
    """Paraformer (Gao et al., arXiv 2206.08317), Seed-TTS-eval's judge of Chinese; the text is in simplified Chinese.

    Args:
        model: A folder, or a name on the hub.
        device: Device of the model.
    """

    families = frozenset({"paraformer"})

    def __init__(self, model: str = "funasr/paraformer-zh", device: str = "cpu") -> None:
        self.model, self.device = model, device
        self._funasr = FunASRModel(model, frames_per_second=1 / 0.06, device=device)

    @property
    def model_hash(self) -> str:
        return self._funasr.model_hash

    @property
    def files_hash(self) -> str:
        return self._funasr.files_hash

    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        """One text per clip. Raises ValueError for languages other than zh."""
        if language != "zh":
            raise ValueError(f"Expected `language` to be zh, but got {language!r}.")
        try:
            from zhconv import convert
        except ImportError as error:
            raise ImportError("Paraformer needs zhconv to convert to simplified Chinese: pip install zhconv") from error
        return [convert(self._funasr.generate(audio)["text"], "zh-cn") for audio in audios]

    def flops(self, seconds: float) -> float:
        return self._funasr.flops(seconds)


class Emotion2Vec:
    """emotion2vec (Ma et al., arXiv 2312.15185): emotion embeddings of length 1, to be compared by `Speaker`.

    Args:
        model: A folder, or a name on the hub.
        device: Device of the model.
    """

    families = frozenset({"emotion2vec"})

    def __init__(self, model: str = "emotion2vec/emotion2vec_plus_large", device: str = "cpu") -> None:
        self.model, self.device = model, device
        self._funasr = FunASRModel(model, frames_per_second=50.0, device=device)

    @property
    def model_hash(self) -> str:
        return self._funasr.model_hash

    @property
    def files_hash(self) -> str:
        return self._funasr.files_hash

    def embed(self, audios: Sequence[Audio | None]) -> list[np.ndarray | Exception]:
        """One (D,) float32 of length 1 per clip, or the exception if it failed."""
        return [self._direction(audio) for audio in audios]

    def _direction(self, audio: Audio | None) -> np.ndarray | Exception:
        try:
            output = self._funasr.generate(audio, granularity="utterance", extract_embedding=True)
            feature_D = np.asarray(output["feats"], dtype=np.float32).reshape(-1)
            return feature_D / np.linalg.norm(feature_D)
        except BROKEN_INSTALLATION:
            raise
        except Exception as error:  # noqa: BLE001 - one bad clip must not stop the others
            return failed(error)

    def flops(self, seconds: float) -> float:
        return self._funasr.flops(seconds)
