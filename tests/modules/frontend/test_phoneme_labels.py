"""Labels of frames against a loop over single frames, and against the phoneme times of the speaker itself."""

import shutil

import numpy as np
import pytest

from datamodules.sources.flite import Flite
from modules.batches import UNKNOWN
from modules.frontend.phoneme_labels import NUMBERS, SILENCE, PhonemeLabels

HOP = 100


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
    labels_F = PhonemeLabels(HOP).label(samples_T, 1000, [], words)
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
    found = labels.label(samples_T, 1000, [], [("北京", 0.5), ("a", 1.0)])
    assert found.tolist() == [UNKNOWN] * 4 + [SILENCE] * 2 + [NUMBERS["AH"]] * 2 + [SILENCE] * 2
    assert (labels.label(samples_T, 1000, [], []) == UNKNOWN).all()
    assert (labels.label(np.zeros(1000, np.float32), 1000, [], [("a", 1.0)]) == SILENCE).all()


def test_times_of_phonemes_are_exact():
    """Guards against the words where phonemes are known, a phoneme that is shifted, and a guess for other symbols."""
    phonemes = [("SIL", 0.14), ("S", 0.34), ("ə", 0.5), ("T", 0.7), ("SIL", 0.9)]
    found = PhonemeLabels(HOP).label(np.ones(1050, np.float32), 1000, phonemes, [("go", 1.05)])
    names = ["SIL", "S", "S", UNKNOWN, UNKNOWN, "T", "T", "SIL", "SIL", "SIL", "SIL"]  # frame 1 is in two phonemes
    assert found.tolist() == [NUMBERS.get(name, UNKNOWN) for name in names] and found.dtype == np.int64


@pytest.mark.skipif(shutil.which("flite") is None, reason="no flite: apt-get install flite")
def test_most_labels_by_words_are_those_by_phonemes():
    """Guards against labels that are shifted, or of other words, and against phonemes of the teacher without number."""
    teacher, labels = Flite("rms"), PhonemeLabels()
    num_equal = num_shifted = num_frames = 0
    for text in ("the old man walked slowly to the river.", "she sells sea shells, and he keeps them in a box."):
        taught = teacher.speak(text)
        audio_T, rate = taught.audio.samples_T.numpy(), taught.audio.sample_rate
        exact_F, found_F = (labels.label(audio_T, rate, given, taught.words) for given in (taught.phonemes, ()))
        assert (exact_F != UNKNOWN).all() and len(exact_F) == len(found_F)
        num_frames += len(found_F)
        num_equal += int((found_F == exact_F).sum())
        num_shifted += int((np.roll(found_F, 8) == exact_F).sum())
    assert num_equal > 0.6 * num_frames > 2 * num_shifted
