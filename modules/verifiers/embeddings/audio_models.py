"""Audio models of transformers for verifiers: loading by folder or name, batching, hashing and FLOP counts.

T audio samples.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modules.api import Audio
from modules.verifiers.audio import checked, failed, resampled
from modules.verifiers.model_files import content_hash, model_folder, settings_hash

# Maps a network's output and the number of samples of each clip to one result per clip.
Reader = Callable[[Any, list[int]], list[Any]]

WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")


class AudioModel:
    """A network with its feature extractor, loaded on first use.

    Clips are processed in batches with the same results as single clips: models that were trained with an attention
    mask (according to their extractor) get padded clips with the mask; the others, and x-vectors, get batches of clips
    of equal length.

    Args:
        model: A folder as `save_pretrained` writes it (with preprocessor_config.json), or a name on the model hub.
        auto_class: Auto class of transformers, such as "AutoModelForCTC".
        device: Device of the model.
        batch_size: Clips per batch.
        families: Model families, for reports; None: the model type in its configuration.
    """

    def __init__(
        self,
        model: str,
        auto_class: str,
        device: str = "cpu",
        batch_size: int = 16,
        families: Sequence[str] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"Expected `batch_size` to be at least 1, but got {batch_size}.")
        self.model, self.auto_class, self.device, self.batch_size = str(model), auto_class, device, batch_size
        self._families = families

    @cached_property
    def folder(self) -> Path:
        return model_folder(self.model, WEIGHT_FILES)

    @cached_property
    def model_hash(self) -> str:
        """Hash of the weights only. Raises FileNotFoundError if the folder has none."""
        for pattern in WEIGHT_FILES:
            if files := sorted(self.folder.glob(pattern)):
                return content_hash(files)
        raise FileNotFoundError(f"Expected weights ({' or '.join(WEIGHT_FILES)}) in {self.folder}, but found none.")

    @cached_property
    def files_hash(self) -> str:
        """Hash of the files besides the weights (settings_hash)."""
        return settings_hash(self.folder)

    @cached_property
    def config(self) -> Any:
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.folder)

    @property
    def families(self) -> frozenset[str]:
        return frozenset([self.config.model_type] if self._families is None else self._families)

    @cached_property
    def extractor(self) -> Any:
        from transformers import AutoFeatureExtractor

        return AutoFeatureExtractor.from_pretrained(self.folder)

    @cached_property
    def network(self) -> Any:
        import transformers

        network = getattr(transformers, self.auto_class).from_pretrained(self.folder, dtype=torch.float32)
        return network.to(self.device).eval().requires_grad_(False)

    @property
    def hears_padding(self) -> bool:
        """True if padding affects the output, so that clips of different lengths must not share a batch: the model
        takes no attention mask, or is an x-vector, whose frames transformers counts without the dilation of its layers,
        so that some padding is included."""
        is_dilated = self.auto_class == "AutoModelForAudioXVector"
        return is_dilated or not getattr(self.extractor, "return_attention_mask", False)

    def judge(self, audios: Sequence[Audio | None], read: Reader, min_samples: int = 1) -> list[Any | Exception]:
        """Results of `read(output of the network, samples of each clip)` for every clip, or a ValueError for those that
        are too short or not finite. Exceptions of the network propagate."""
        clips: dict[int, np.ndarray] = {}
        results: list[Any] = [None] * len(audios)
        for place, audio in enumerate(audios):
            try:
                clips[place] = self._clip(audio, min_samples)
            except ValueError as error:
                results[place] = failed(error)
        for places in self._batches(clips):
            for place, result in zip(places, self._judge_batch([clips[place] for place in places], read), strict=True):
                results[place] = result
        return results

    def _clip(self, audio: Audio | None, min_samples: int) -> np.ndarray:
        clip_T = resampled(checked(audio), self.extractor.sampling_rate)
        if len(clip_T) < min_samples:
            raise ValueError(f"Expected `audio` of at least {min_samples} samples, but got {len(clip_T)}.")
        return clip_T

    def _batches(self, clips: Mapping[int, np.ndarray]) -> list[list[int]]:
        batches: list[list[int]] = []
        for place in sorted(clips, key=lambda place: len(clips[place])):
            full = not batches or len(batches[-1]) == self.batch_size
            if full or (self.hears_padding and len(clips[batches[-1][0]]) != len(clips[place])):
                batches.append([])
            batches[-1].append(place)
        return batches

    @torch.inference_mode()
    def _judge_batch(self, clips: list[np.ndarray], read: Reader) -> list[Any]:
        return read(self.network(**self._inputs(clips)), [len(clip) for clip in clips])

    def _inputs(self, clips: list[np.ndarray]) -> dict[str, torch.Tensor]:
        inputs = self.extractor(clips, sampling_rate=self.extractor.sampling_rate, padding=True, return_tensors="pt")
        return {name: value.to(self.device) for name, value in inputs.items()}

    def flops(self, seconds: float) -> float:
        """FLOPs of matrix products and convolutions per clip: a parabola through torch's counts at three lengths."""
        if seconds <= 0:
            return 0.0
        constant, linear, square = self._flops_parabola
        return max(0.0, constant + linear * seconds + square * seconds**2)

    @cached_property
    def _flops_parabola(self) -> tuple[float, float, float]:
        lengths = np.array([1.0, 3.0, 6.0])
        counted = [self._count_flops(seconds) for seconds in lengths]
        return tuple(np.linalg.solve(np.vander(lengths, increasing=True), counted).tolist())

    def _count_flops(self, seconds: float) -> int:
        """Count on the meta device (shapes only), with eager attention, whose products the counter includes."""
        import transformers
        from torch.utils.flop_counter import FlopCounterMode

        clip = np.zeros(round(seconds * self.extractor.sampling_rate), np.float32)
        inputs = {name: value.to("meta") for name, value in self._inputs([clip]).items() if name != "attention_mask"}
        with torch.device("meta"):
            network = getattr(transformers, self.auto_class).from_config(self.config, attn_implementation="eager")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(**inputs)
        return counter.get_total_flops()


class UsesAudioModel:
    """Base of recognisers, encoders and verifiers with one AudioModel: its hashes, families and cost."""

    _audio_model: AudioModel

    @property
    def model_hash(self) -> str:
        return self._audio_model.model_hash

    @property
    def files_hash(self) -> str:
        return self._audio_model.files_hash

    @property
    def families(self) -> frozenset[str]:
        return self._audio_model.families

    def flops(self, seconds: float) -> float:
        """FLOPs of one pass over a clip."""
        return self._audio_model.flops(seconds)


def unmasked_lengths(network: Any, num_samples: Sequence[int]) -> list[int]:
    """Number of frames of each clip without padding."""
    return [int(network._get_feat_extract_output_lengths(number)) for number in num_samples]


def mean_hidden(network: Any, hidden_BSC: torch.Tensor, num_samples: Sequence[int]) -> list[np.ndarray]:
    """Normalised mean over each clip's frames without padding, (C,) float32 of length 1."""
    has_frames = hasattr(network, "_get_feat_extract_output_lengths")
    lengths = unmasked_lengths(network, num_samples) if has_frames else [hidden_BSC.shape[1]] * len(num_samples)
    means = [row_SC[:length].mean(0) for row_SC, length in zip(hidden_BSC, lengths, strict=True)]
    return [torch.nn.functional.normalize(mean_C, dim=0).cpu().numpy() for mean_C in means]
