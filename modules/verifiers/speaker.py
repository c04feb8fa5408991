"""How like the wanted voice a candidate sounds: cosine similarity of speaker embeddings.

T audio samples, W windows, F mel frames, D embedding dimensions.
"""

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from modules.api import Audio, Candidate, Prompt
from modules.threads import torch_threads
from modules.verifiers.audio import ContentCache, Failures, checked, failed, reference_similarities, resampled
from modules.verifiers.audio_models import AudioModel
from modules.verifiers.model_files import content_hash, package_folder
from modules.verifiers.settings import constructor_settings

SAMPLE_RATE = 16_000
MIN_VOICED_SECONDS = 0.3
WINDOWS_PER_SECOND = 1.3
WINDOW_FRAMES = 160
MAX_BATCH_WINDOWS = 64


class SpeakerEncoder(Protocol):
    """Audio to a direction in a space of voices."""

    @property
    def model_hash(self) -> str: ...
    @property
    def families(self) -> frozenset[str]: ...
    def embed(self, audios: Sequence[Audio | None]) -> list[np.ndarray | Exception]:
        """One (D,) float32 of length 1 each, or why there is none."""
        ...

    def flops(self, seconds: float) -> float: ...


class Resemblyzer:
    """The GE2E encoder (Wan et al., arXiv 1710.10467) that the package resemblyzer carries: D = 256.

    Long silences are cut out (WebRTC's voice detector) and loudness raised, as resemblyzer does; the windows of
    1.6 s of all clips then go through the network together, which is several times faster than resemblyzer's own
    `embed_utterance` clip by clip and gives the same embeddings.

    Args:
        device: Where the network runs.
        weights: Another file of weights in resemblyzer's format; the package's own where None.
    """

    families = frozenset({"ge2e"})

    def __init__(self, device: str = "cpu", weights: Path | None = None) -> None:
        self.device = device
        self.weights = weights

    @cached_property
    def _weights(self) -> Path:
        return Path(self.weights or package_folder("resemblyzer", "--no-deps resemblyzer") / "pretrained.pt")

    @cached_property
    def model_hash(self) -> str:
        return content_hash([self._weights])

    @cached_property
    @torch_threads()
    def _encoder(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it imports scipy.ndimage.morphology, pkg_resources
            try:
                from resemblyzer import VoiceEncoder
            except ImportError as error:
                command = "pip install webrtcvad-wheels librosa && pip install --no-deps resemblyzer"
                raise ImportError(f"The speaker encoder needs resemblyzer: {command}") from error
        return VoiceEncoder(self.device, verbose=False, weights_fpath=self._weights)

    # One thread: an LSTM of 256 is so small that more mostly wait for each other, spinning. On 2 cores that something
    # else also uses, two threads took ten times the CPU time of one and longer on the clock.
    @torch_threads(1)
    def embed(self, audios: Sequence[Audio | None]) -> list[np.ndarray | Exception]:
        """One (D,) float32 of length 1 each, or why there is none."""
        encoder = self._encoder
        mels: list[list[np.ndarray] | Exception] = []
        for audio in audios:
            try:
                mels.append(self._mel_windows(audio))
            except Exception as error:  # noqa: BLE001 - one bad clip must not stop the others
                mels.append(failed(error))
        windows = [window for clip in mels if not isinstance(clip, Exception) for window in clip]
        embedded: list[np.ndarray] = []
        with torch.no_grad():
            for start in range(0, len(windows), MAX_BATCH_WINDOWS):
                mels_WFM = torch.from_numpy(np.stack(windows[start : start + MAX_BATCH_WINDOWS]))
                embedded += list(encoder(mels_WFM.to(encoder.device)).cpu().numpy())
        rows = iter(embedded)
        return [clip if isinstance(clip, Exception) else _mean_direction([next(rows) for _ in clip]) for clip in mels]

    def _mel_windows(self, audio: Audio | None) -> list[np.ndarray]:
        """resemblyzer's overlapping windows of the voiced parts, each (160, 40) float32."""
        from resemblyzer import preprocess_wav
        from resemblyzer.audio import wav_to_mel_spectrogram

        samples_T = resampled(checked(audio), SAMPLE_RATE)
        if not samples_T.any():
            raise ValueError("Expected `audio` with some sound in it, but got silence.")
        voiced_T = preprocess_wav(samples_T)
        if len(voiced_T) < MIN_VOICED_SECONDS * SAMPLE_RATE:
            raise ValueError(
                f"Expected at least {MIN_VOICED_SECONDS} s of voice, but got {len(voiced_T) / SAMPLE_RATE:.2f} s."
            )
        wav_slices, mel_slices = self._encoder.compute_partial_slices(
            len(voiced_T), rate=WINDOWS_PER_SECOND, min_coverage=0.75
        )
        voiced_T = np.pad(voiced_T, (0, max(0, wav_slices[-1].stop - len(voiced_T))))
        mel_FM = wav_to_mel_spectrogram(voiced_T)
        return [mel_FM[part] for part in mel_slices]

    def flops(self, seconds: float) -> float:
        """2 x weights x frames: 3 LSTM layers of 256 over 40 mel bands, a window of 160 frames 1.3 times a second."""
        num_weights = 4 * 256 * (40 + 256) + 2 * 4 * 256 * (256 + 256)
        num_windows = max(1.0, WINDOWS_PER_SECOND * seconds) if seconds > 0 else 0.0
        return num_windows * (2.0 * WINDOW_FRAMES * num_weights + 2.0 * 256 * 256)


class XVector:
    """A speaker model of transformers, such as WavLM-SV (Chen et al., arXiv 2110.13900): WavLMForXVector and its kin.

    Seed-TTS-eval's similarity comes from a fine-tuned WavLM large with an ECAPA head, which transformers does not hold:
    numbers of this class are not comparable with those tables (modules/verifiers/wavlm_speaker.py has that encoder).

    Args:
        model: A folder, or a name on the hub such as microsoft/wavlm-base-plus-sv.
        device: Where it runs.
        batch_size: Clips at a time.
        families: Kinds of model that it counts as; None: the type that its configuration names.
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
        """One (D,) float32 of length 1 each, or why there is none."""
        return self._audio_model.judge(audios, _directions, self._min_samples)

    @cached_property
    def _min_samples(self) -> int:
        """Of a clip of which the time-delay layers leave two frames, which is what a deviation over time takes."""
        config = self._audio_model.config
        number = 2 + sum((k - 1) * d for k, d in zip(config.tdnn_kernel, config.tdnn_dilation, strict=True))
        if hasattr(config, "conv_kernel"):  # else the network hears features, not samples
            for k, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
                number = (number - 1) * stride + k
        return number

    def flops(self, seconds: float) -> float:
        return self._audio_model.flops(seconds)


def _directions(output: Any, num_samples: Sequence[int]) -> list[np.ndarray]:
    return list(torch.nn.functional.normalize(output.embeddings.float(), dim=-1).cpu().numpy())


class Speaker:
    """Cosine similarity between a candidate's voice and that of `prompt.reference`; NaN where either is missing.

    Embeddings are kept, by the hash of the audio. The number says how near two clips are for this
    encoder; it is comparable between systems only with the same encoder and the same references.

    Args:
        encoder: Such as Resemblyzer().
        name: Column of tables.
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
        """What decides the score beside the model."""
        return constructor_settings(self.encoder)

    @property
    def num_failures(self) -> int:
        return self._failures.count

    def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Tensor:
        """(N,) float64 in [-1, 1]."""
        return self.score_many([prompt], [candidates])[0]

    def score_many(self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]) -> list[Tensor]:
        """`score` of many prompts: all clips and references in one pass."""
        return reference_similarities(self._embeddings, prompts, groups, self._failures)

    def flops(self, seconds: float) -> float:
        """One pass of the encoder over the candidate; the reference's is paid once per prompt and not counted."""
        return self.encoder.flops(seconds)


def _mean_direction(rows: Sequence[np.ndarray]) -> np.ndarray:
    mean_D = np.mean(rows, axis=0)
    return mean_D / np.linalg.norm(mean_D)
