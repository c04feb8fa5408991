"""studies/voice/judge_noise: variants against the recording, gains by hand, and the page shows the json's numbers."""

import json

import numpy as np
import pytest
import torch

from modules.api import Audio
from studies.voice.judge_noise import GAIN_DB, NOISE_DB, PAGE, RESULTS, SILENCE_MS, noise_of, render, repeated, variant


def test_a_variant_is_the_recording_but_for_silence_gain_and_faint_noise():
    """Guards against variants that a listener would tell apart, and against variants that are all alike."""
    samples_T = torch.from_numpy(np.random.default_rng(0).uniform(-0.4, 0.4, 8000).astype(np.float32))
    found = [variant(Audio(samples_T, 16000), (0, 0, index)).samples_T.numpy() for index in range(8)]
    for own_T in found:
        moved = len(own_T) - len(samples_T)
        assert 0 <= moved <= SILENCE_MS * 16
        gain = own_T[moved:] @ samples_T.numpy() / (samples_T.numpy() @ samples_T.numpy())
        assert abs(20 * np.log10(gain)) <= GAIN_DB
        rest_T = own_T - np.pad(gain * samples_T.numpy(), (moved, 0))
        assert 20 * np.log10(rest_T.std() / (gain * 0.4)) == pytest.approx(NOISE_DB, abs=0.5)
    assert len({len(own_T) for own_T in found}) > 4
    assert np.array_equal(found[3], variant(Audio(samples_T, 16000), (0, 0, 3)).samples_T.numpy())


def test_a_choice_is_judged_by_a_variant_that_it_has_not_seen():
    """Guards against a choice and a judgement by the same reading, where noise alone gains."""
    # By the second variant both tie; by the first, the second candidate is best, and has 3 errors in the other.
    assert repeated(np.array([[2.0, 3.0], [1.0, 3.0]])) == pytest.approx((3.0 + (2.0 + 1.0) / 2) / 2)
    errors_NV = np.random.default_rng(0).integers(0, 2, (8, 400)).astype(float)
    chosen = [repeated(errors_NV[:, index : index + 2]) for index in range(0, 400, 2)]
    assert np.mean(chosen) == pytest.approx(0.5, abs=0.05)


def test_gains_are_errors_saved_over_words():
    """Guards against gains that are not of the same sentences, and an oracle that chooses once for all variants."""
    teacher_UV = np.array([[1.0, 0.0], [2.0, 2.0]])
    candidates_UNV = np.array([[[0.0, 1.0], [2.0, 1.0]], [[3.0, 4.0], [1.0, 2.0]]])
    found = noise_of(teacher_UV, candidates_UNV, np.array([4.0, 10.0]))
    assert found["gain"]["teacher, best of 2 variants"]["value"] == pytest.approx(0.5 / 14)
    assert found["wer"]["model, one sample"]["value"] == pytest.approx((1.0 + 2.5) / 14)
    assert found["wer"]["model, oracle of 2"]["value"] == pytest.approx((0.5 + 1.5) / 14)
    # By the first variant the first candidate of the first sentence, judged 1; by the second both, judged (0 + 2) / 2.
    judged = found["wer"]["model, oracle of 2, judged by other variants"]
    assert judged["value"] == pytest.approx((1.0 + 1.5) / 14)
    assert found["share"]["teacher, best of 2 variants"]["value"] == pytest.approx(0.5 / (0.5 + 1.0))


def test_the_page_is_that_of_the_results():
    page = PAGE.read_text(encoding="utf-8")
    assert render(json.loads(RESULTS.read_text(encoding="utf-8")), page) == page
