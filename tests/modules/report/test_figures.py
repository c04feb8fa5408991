"""modules/report/figures.py: curves, mel spectrograms and code frequencies, checked by the drawn values."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from modules.api import Audio
from modules.report.figures import (
    curve_figure,
    frequency_figure,
    inline_svg,
    log_mel,
    mel_figure,
    mel_thumbnail,
    mel_ticks,
    rendered_pixels,
)
from modules.report.mel_picture import mel_picture
from tests.toys.report_toys import RATE, curve


def test_figure_holds_the_numbers_and_names_the_oracle():
    """Guards against an axis that is not logarithmic, an error drawn upside down, and an unlabelled oracle."""
    points = [
        *curve("random", [0.5] * 4),
        *curve("a", [0.5, 0.6, 0.7, 0.8]),
        *curve("oracle (listener)", [0.5, 0.8, 0.9, 1]),
    ]
    panel = curve_figure(points, as_error=True).axes[0]
    lines = {line.get_label().replace("\n", " "): line for line in panel.lines}
    assert set(lines) == {"random choice", "best by a", "oracle (selected by the judge)"}
    np.testing.assert_allclose(lines["best by a"].get_ydata(), [0.5, 0.4, 0.3, 0.2])
    np.testing.assert_array_equal(lines["best by a"].get_xdata(), [1, 2, 4, 8])
    assert lines["oracle (selected by the judge)"].get_linestyle() == "--"
    assert panel.get_xscale() == "log"
    bands = [band.get_datalim(panel.transData).bounds for band in panel.collections]
    assert len(bands) == 2  # random and a: the oracle is a bound, without an interval
    svg = inline_svg(curve_figure(points), 'a "quoted" name')
    assert "http" not in svg and "currentColor" in svg
    assert svg == inline_svg(curve_figure(points), 'a "quoted" name')


def test_figure_ink_lies_inside_the_picture():
    """Guards against long selector names cut off at the edge: the outermost pixels are empty."""
    names = ["transcript of a recogniser with a very long name", "b"]
    points = [point for name in names for point in curve(name, [0.1, 0.2, 0.4])]
    pixels = rendered_pixels(curve_figure(points))
    edges = np.concatenate([pixels[:2].ravel(), pixels[-2:].ravel(), pixels[:, :2].ravel(), pixels[:, -2:].ravel()])
    assert (edges == 255).all()
    assert Image.fromarray(pixels).convert("L").getextrema()[0] < 100


def test_mel_picture_shows_the_tone_where_it_is():
    """Guards against an image that is flipped or misaligned: a tone of the second half is there, at its own pitch."""
    import librosa

    time_T = torch.arange(RATE) / RATE
    tone = torch.where(time_T >= 0.5, 0.5 * torch.sin(2 * torch.pi * 1000 * time_T), torch.zeros(()))
    picture = log_mel(Audio(tone, RATE))
    centres = librosa.mel_frequencies(n_mels=82, fmin=0, fmax=RATE / 2)[1:-1]
    assert abs(centres[picture[:, 75].argmax()] - 1000) < 60
    assert picture[:, 75].max() > -1
    assert picture[:, 20].max() < -70
    drawn = rendered_pixels(mel_thumbnail(Audio(tone, RATE), 1.0)).mean(-1)[:, -30]
    assert drawn.argmax() > 0.6 * drawn.size  # low pitches are at the bottom
    pixels = rendered_pixels(mel_figure([("a", Audio(tone, RATE)), ("b", Audio(tone[:10], RATE))]))
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    assert (pixels[:2] == 255).all() and (pixels[:, -2:] == 255).all()


def test_frequency_figure_is_sorted_and_keeps_its_mass():
    """Guards against a histogram over code numbers, which does not show a collapse."""
    counts_K = np.array([0, 5, 1, 4])
    line = frequency_figure(counts_K, "codes").axes[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), [0.5, 0.4, 0.1])


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_mel_axes_name_the_pitch_that_is_drawn(rate):
    """Guards against axes without numbers, a linear axis, and one that is a band off."""
    ticks = {label: height for height, label in mel_ticks(rate)}
    assert {"0.5", "1", "2"} <= ticks.keys() and all(0 < height < 0.95 for height in ticks.values())
    time_T = torch.arange(rate) / rate
    for label, height in ticks.items():
        picture = log_mel(Audio(0.5 * torch.sin(2 * torch.pi * 1000 * float(label) * time_T), rate))
        band = picture[:, 50].argmax()
        assert band / len(picture) - 0.5 / len(picture) <= height <= (band + 1.5) / len(picture), label
    panel = mel_figure([("a", Audio(torch.ones(rate), rate))]).axes[0]
    assert [text.get_text() for text in panel.get_yticklabels()] == list(ticks)
    assert (panel.get_ylabel(), panel.get_xlabel()) == ("kHz", "time in s")


def test_the_pages_mel_picture_has_time_and_frequency():
    """Guards against times that are spread over the clip instead of the common axis, and against unescaped labels."""
    picture = mel_picture(Audio(torch.ones(RATE), RATE), 2.5, 'a "b"')
    times = re.findall(r'left: ([\d.]+)%">([\d.]+)', picture)
    assert [float(place) for place, _ in times] == pytest.approx(
        [100 * float(name) / 2.5 for _, name in times], abs=0.1
    )
    assert [name for _, name in times] == ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5"] and "2.5 s<" in picture
    assert 'alt="mel spectrogram: a &quot;b&quot;"' in picture
    bands = re.findall(r'bottom: ([\d.]+)%">([\d.]+)', picture)
    assert bands == [(f"{100 * height:.1f}", name) for height, name in mel_ticks(RATE)] and "kHz" in picture


def test_silence_is_dark():
    """Guards against digital silence drawn as the loudest sound, because it is its own maximum."""
    assert (log_mel(Audio(torch.zeros(RATE), RATE)) == -80).all()
    quiet_T = 1e-3 * torch.sin(2 * torch.pi * 1000 * torch.arange(RATE) / RATE)
    assert log_mel(Audio(quiet_T, RATE)).max() == 0
