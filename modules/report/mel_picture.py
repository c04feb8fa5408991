"""A mel spectrogram with its axes as HTML: the axes are text, of one size at every width of the page."""

import html

from markupsafe import Markup

from modules.api import Audio
from modules.report.drawings import round_ticks
from modules.report.figures import mel_thumbnail, mel_ticks, png_bytes
from modules.report.page import data_uri


def mel_picture(audio: Audio, seconds: float, label: str) -> Markup:
    """The picture, `seconds` wide, with frequencies in kHz and time in s. `label` says whose it is."""
    source = data_uri(png_bytes(mel_thumbnail(audio, seconds)), "image/png")
    description = html.escape(f"mel spectrogram: {label}", quote=True)
    bands = "".join(
        f'<span style="bottom: {100 * height:.1f}%">{name}</span>' for height, name in mel_ticks(audio.sample_rate)
    )
    ticks = round_ticks(0.0, seconds or 1.0)
    names = [name for _, name in ticks[:-1]] + [f"{ticks[-1][1]} s"]
    times = "".join(
        f'<span style="left: {100 * time / (seconds or 1.0):.1f}%">{name}</span>'
        for (time, _), name in zip(ticks, names, strict=True)
    )
    return Markup(
        f'<div class="mel"><div class="bands">{bands}</div><img src="{source}" alt="{description}">'
        f'<div class="unit">kHz</div><div class="times">{times}</div></div>'
    )
