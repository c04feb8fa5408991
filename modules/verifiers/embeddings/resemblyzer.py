"""Resemblyzer's speaker encoder, without its dependencies."""

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modules.api import Audio
from modules.threads import torch_threads
from modules.verifiers.audio import checked, failed, resampled
from modules.verifiers.model_files import content_hash, package_folder
from modules.verifiers.speaker import SAMPLE_RATE

MIN_VOICED_SECONDS = 0.3


WINDOWS_PER_SECOND = 1.3


WINDOW_FRAMES = 160


MAX_BATCH_WINDOWS = 64


class Resemblyzer:
    """The GE2E encoder (Wan et al., arXiv 1710.10467) of the package resemblyzer: D = 256.

    Long silences are removed (WebRTC's voice detector) and loudness is raised, as in resemblyzer; the windows of
    1.6 s of all clips are then processed in one batch, which is several times faster than resemblyzer's own
    `embed_utterance` clip by clip and gives the same embeddings.

    Args:
        device: Device of the network.
        weights: A file of weights in resemblyzer's format; None uses the package's own.
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

    # One thread: an LSTM of 256 is so small that several threads mostly spin waiting for each other. On 2 cores shared
    # with other processes, two threads took ten times the CPU time of one and more wall time.
    @torch_threads(1)
    def embed(self, audios: Sequence[Audio | None]) -> list[np.ndarray | Exception]:
        """One (D,) float32 of length 1 per clip, or the exception if it failed."""
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
            raise ValueError("Expected `audio` that is not silent, but got silence.")
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


def _mean_direction(rows: Sequence[np.ndarray]) -> np.ndarray:
    mean_D = np.mean(rows, axis=0)
    return mean_D / np.linalg.norm(mean_D)
