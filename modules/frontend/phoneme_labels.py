"""PhonemeLabels: which phoneme is spoken when. Shapes: T audio samples, F frames."""

from collections.abc import Sequence

import numpy as np

from modules.batches import UNKNOWN
from modules.frontend.phonemes import PHONEMES, pronunciations, spoken_words

SILENCE = 0
NUMBERS = {phoneme: number for number, phoneme in enumerate(["SIL", *PHONEMES.split()])}
QUIET = 0.01  # of the loudest frame's amplitude: -40 dB

Times = Sequence[tuple[str, float]]  # names with the seconds at which they end


class PhonemeLabels:
    """Labels of the frames of a recording in English: the number of an ARPAbet phoneme without stress from 1 on,
    SILENCE, or UNKNOWN.

    Times of phonemes, which a teacher knows, are exact. With those of words alone, the phonemes of a word share its
    frames evenly, and quiet frames at its ends are silence, because the times contain the pauses beside it; of flite's
    speech more than six of ten labels are then the exact ones (tests/modules/frontend/test_phoneme_labels.py).

    Args:
        hop_length: Samples per frame.
    """

    num_labels = len(NUMBERS)

    def __init__(self, hop_length: int = 320) -> None:
        self.hop_length = hop_length

    def label(self, audio_T: np.ndarray, sample_rate: int, phonemes: Times, words: Times) -> np.ndarray:
        """Return (F,) int64, one label per started frame, of a whole recording. UNKNOWN are other symbols, a word that
        cannot be pronounced, and everything without times."""
        num_frames = -(-len(audio_T) // self.hop_length)
        if phonemes:
            return self._of_phonemes(num_frames, sample_rate, phonemes)
        return self._of_words(audio_T, num_frames, sample_rate, words)

    def _of_phonemes(self, num_frames: int, sample_rate: int, phonemes: Times) -> np.ndarray:
        """The phoneme at the middle of each frame."""
        ends_P = np.array([end for _, end in phonemes])
        middles_F = (np.arange(num_frames) + 0.5) * self.hop_length / sample_rate
        numbers_P = np.array([NUMBERS.get(name, UNKNOWN) for name, _ in phonemes])
        return numbers_P[np.searchsorted(ends_P, middles_F).clip(max=len(ends_P) - 1)]

    def _of_words(self, audio_T: np.ndarray, num_frames: int, sample_rate: int, words: Times) -> np.ndarray:
        labels_F = np.full(num_frames, SILENCE if words else UNKNOWN, np.int64)
        padded_T = np.pad(audio_T, (0, num_frames * self.hop_length - len(audio_T)))
        energy_F = np.square(padded_T.reshape(num_frames, self.hop_length)).mean(1)
        is_loud_F = energy_F > QUIET**2 * energy_F.max(initial=0.0)
        start = 0
        for word, end in words:
            stop = max(start, min(num_frames, round(end * sample_rate / self.hop_length)))
            loud = start + np.flatnonzero(is_loud_F[start:stop])
            if len(loud):
                spoken = slice(loud[0], loud[-1] + 1)
                labels_F[spoken] = spread(word, spoken.stop - spoken.start)
            start = stop
        return labels_F


def spread(word: str, num_frames: int) -> np.ndarray:
    """Labels of a word over its frames."""
    try:
        numbers = [NUMBERS[phoneme] for part in spoken_words(word) for phoneme in pronunciations(part)[0]]
    except ValueError:
        numbers = []
    return np.array(numbers or [UNKNOWN])[np.arange(num_frames) * max(1, len(numbers)) // num_frames]
