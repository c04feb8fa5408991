"""Small drawings as inline SVG: histograms and waveforms. Drawn by hand, because matplotlib takes seconds for a page
that has many.

Shapes: T audio samples, N values.
"""

import html
import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

BLUE, ORANGE = "#0072b2", "#d55e00"  # of figures.py
NUM_BARS = 51
NUM_COLUMNS = 300  # of a waveform
LEFT, RIGHT, TOP, BOTTOM, HEIGHT = 46, 300, 10, 130, 150  # of a histogram's axes, and of the whole


def histogram(values_N: np.ndarray, thresholds: Sequence[float], description: str) -> Markup:
    """Counts of the finite values, on a logarithmic axis because the few at the ends are those to look at; thresholds
    as dashed lines, unless they lie so far off that no room is left for the bars."""
    values_N = values_N[np.isfinite(values_N)]
    low, high = (float(values_N.min()), float(values_N.max())) if len(values_N) else (0.0, 1.0)
    if high - low <= 1e-6 * max(abs(low), abs(high)):  # equal values: one bar of a visible width
        low, high = low - max(abs(low), 1) / 50, high + max(abs(high), 1) / 50
    counts, edges = np.histogram(values_N, bins=NUM_BARS, range=(low, high))
    near = [one for one in thresholds if 2 * low - high <= one <= 2 * high - low]
    low, high = min(low, *near) if near else low, max(high, *near) if near else high
    top = math.log10(4 * max(1, int(counts.max())))  # decades above half a recording, with a margin

    def across(value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (value - low) / (high - low), 1)

    def up(count: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * max(0.0, math.log10(2 * count) if count else 0.0) / top, 1)

    parts = []
    for power in range(int(top) + 1):
        height = up(10**power)
        if height >= TOP:
            parts.append(_line(LEFT, height, RIGHT, height, 'opacity="0.2"'))
            parts.append(_label(LEFT - 5, height + 4, f"{10**power:,}", "end"))
    bars = [
        f"M{across(left)} {BOTTOM}V{up(count)}H{across(right)}V{BOTTOM}Z"
        for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        if count
    ]
    parts.append(f'<path d="{"".join(bars)}" fill="{BLUE}"/>')
    parts.append(_line(LEFT, BOTTOM, RIGHT, BOTTOM))
    parts += [_label(across(tick), BOTTOM + 16, label, "middle") for tick, label in round_ticks(low, high, at_least=2)]
    parts += [_line(across(one), TOP, across(one), BOTTOM, 'stroke-dasharray="5 3"', ORANGE) for one in near]
    return _drawing(f'class="small" viewBox="0 0 {RIGHT + 20} {HEIGHT}"', description, "".join(parts))


def waveform(samples_T: np.ndarray) -> Markup:
    """Extremes of the samples over time; the drawing's upper and lower ends are full scale."""
    edges = np.unique(np.linspace(0, len(samples_T), NUM_COLUMNS + 1).astype(int))[:-1]
    if not len(samples_T):
        return Markup("")
    samples_T = np.clip(samples_T, -1, 1)
    tops, bottoms = (extreme.reduceat(samples_T, edges).tolist() for extreme in (np.maximum, np.minimum))
    outline = [*enumerate(tops), *reversed(list(enumerate(bottoms)))]
    points = " ".join(f"{place},{50 - 50 * value:.1f}" for place, value in outline)
    shape = f'<polygon points="{points}" fill="{BLUE}" stroke="{BLUE}" stroke-width="0.5"/>'
    size = f'class="wave" viewBox="0 0 {max(1, len(edges) - 1)} 100" preserveAspectRatio="none"'
    return _drawing(size, "waveform", shape)


def round_ticks(low: float, high: float, at_least: int = 4) -> list[tuple[float, str]]:
    """`at_least` steps between round numbers in [low, high], fewer than 2.5 times as many, with their labels."""
    power = 10.0 ** math.floor(math.log10((high - low) / at_least))
    step = next(factor * power for factor in (5, 2, 1) if (high - low) / (factor * power) >= at_least - 1e-6)
    digits = max(0, -math.floor(math.log10(step)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(number * step, f"{number * step + 0.0:,.{digits}f}") for number in range(first, last + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, style: str = "", colour: str = "currentColor") -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" {style}/>'


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="12" fill="currentColor">{text}</text>'


def _drawing(attributes: str, description: str, parts: str) -> Markup:
    return Markup(f'<svg {attributes} role="img" aria-label="{html.escape(description)}">{parts}</svg>')
