"""PhonemeLabels: which phoneme is spoken when, by the times of the words. Shapes: T audio samples, F frames."""

from collections.abc import Sequence

import numpy as np

from modules.frontend.phonemes import PHONEMES, pronunciations, spoken_words

SILENCE, UNKNOWN = 0, -100
QUIET = 0.01  # of the loudest frame's amplitude: -40 dB


class PhonemeLabels:
    """Labels of the frames of a recording in English: SILENCE, the number of an ARPAbet phoneme from 1 on, or UNKNOWN.

    The phonemes of a word share its frames evenly; quiet frames at its ends are silence, because its times contain the
    pauses beside it. Seven of ten labels of flite's speech are those of its own phoneme times.

    Args:
        hop_length: Samples per frame.
    """

    num_labels = 1 + len(PHONEMES.split())

    def __init__(self, hop_length: int = 320) -> None:
        self.hop_length = hop_length
        self._numbers = {phoneme: number for number, phoneme in enumerate(PHONEMES.split(), 1)}

    def __call__(self, audio_T: np.ndarray, sample_rate: int, words: Sequence[tuple[str, float]]) -> np.ndarray:
        """Return (F,) int64, one label per started frame, of a whole recording. `words`: each with the second at which
        it ends. UNKNOWN are a word that cannot be pronounced, and everything without words."""
        num_frames = -(-len(audio_T) // self.hop_length)
        labels_F = np.full(num_frames, SILENCE if words else UNKNOWN, np.int64)
        padded_T = np.pad(audio_T, (0, num_frames * self.hop_length - len(audio_T)))
        energy_F = np.square(padded_T.reshape(num_frames, self.hop_length)).mean(1)
        is_loud_F = energy_F > QUIET**2 * energy_F.max(initial=0.0)
        start = 0
        for word, end in words:
            stop = min(num_frames, round(end * sample_rate / self.hop_length))
            loud = start + np.flatnonzero(is_loud_F[start:stop])
            if len(loud):
                spoken = slice(loud[0], loud[-1] + 1)
                labels_F[spoken] = self._spread(word, spoken.stop - spoken.start)
            start = max(start, stop)
        return labels_F

    def _spread(self, word: str, num_frames: int) -> np.ndarray:
        """The phonemes of a word over its frames."""
        try:
            numbers = [self._numbers[one] for part in spoken_words(word) for one in pronunciations(part)[0]]
        except ValueError:
            numbers = []
        return np.array(numbers or [UNKNOWN])[np.arange(num_frames) * max(1, len(numbers)) // num_frames]
