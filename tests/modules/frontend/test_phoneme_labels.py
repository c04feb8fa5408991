"""Labels of frames against a loop over single frames, and against the phoneme times of the speaker itself."""

import shutil

import numpy as np
import pytest

from datamodules.sources.flite import Flite
from modules.frontend.phoneme_labels import SILENCE, UNKNOWN, PhonemeLabels
from modules.frontend.phonemes import PHONEMES

HOP = 100
NUMBERS = {phoneme: number for number, phoneme in enumerate(PHONEMES.split(), 1)}


def audio(loud: list[tuple[int, int]], num_samples: int) -> np.ndarray:
    """Silence with a tone in the given frames."""
    samples_T = np.zeros(num_samples, np.float32)
    for first, stop in loud:
        samples_T[first * HOP : stop * HOP] = 0.5
    return samples_T


def test_the_phonemes_of_a_word_share_its_loud_frames():
    """Guards against phonemes in the pauses before, between and after the words, and in the frames of other words."""
    samples_T = audio([(3, 9), (12, 16)], 1950)  # 20 frames, the last one short
    words = [("seat,", 1100 / 1000), ("2", 1150 / 1000), ("Go!", 1.95)]  # the second has no frame with sound
    labels_F = PhonemeLabels(HOP)(samples_T, 1000, words)
    spoken = {3: "S S IY IY T T", 12: "G G OW OW"}
    expected = [SILENCE] * 20
    for first, phonemes in spoken.items():
        for frame, phoneme in enumerate(phonemes.split(), first):
            expected[frame] = NUMBERS[phoneme]
    assert labels_F.tolist() == expected and labels_F.dtype == np.int64
    assert PhonemeLabels.num_labels == 40 > labels_F.max()


def test_what_is_unknown_has_no_label():
    """Guards against a guess for a word that cannot be pronounced, and for a recording without times of words."""
    labels = PhonemeLabels(HOP)
    samples_T = audio([(0, 4), (6, 8)], 1000)
    found = labels(samples_T, 1000, [("北京", 0.5), ("a", 1.0)])
    assert found.tolist() == [UNKNOWN] * 4 + [SILENCE] * 2 + [NUMBERS["AH"]] * 2 + [SILENCE] * 2
    assert (labels(samples_T, 1000, []) == UNKNOWN).all()
    assert (labels(np.zeros(1000, np.float32), 1000, [("a", 1.0)]) == SILENCE).all()


@pytest.mark.skipif(shutil.which("flite") is None, reason="no flite: apt-get install flite")
def test_most_labels_are_those_of_the_speaker():
    """Guards against labels that are shifted, or of other words: two thirds are those of flite's own phoneme times."""
    teacher, labels = Flite("rms"), PhonemeLabels()
    num_equal = num_shifted = num_frames = 0
    for text in ("the old man walked slowly to the river.", "she sells sea shells, and he keeps them in a box."):
        spoken = teacher.utterance(text)
        found_F = labels(spoken.samples_T / 32768, spoken.sample_rate, teacher.speak(text).words)
        ends = np.array([end for _, end in spoken.phonemes])
        places_F = np.searchsorted(ends, (np.arange(len(found_F)) + 0.5) * 0.02).clip(max=len(ends) - 1)
        names = [spoken.phonemes[place][0].upper() for place in places_F]
        expected_F = np.array([NUMBERS.get({"AX": "AH"}.get(name, name), SILENCE) for name in names])
        num_frames += len(found_F)
        num_equal += int((found_F == expected_F).sum())
        num_shifted += int((np.roll(found_F, 8) == expected_F).sum())
    assert num_equal > 0.6 * num_frames > 2 * num_shifted
