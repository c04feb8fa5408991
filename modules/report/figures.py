"""Figures: mel spectrograms, scaling curves, code frequencies. Figure objects without pyplot's global state.

Shapes: T audio samples, K entries of the codebook.
"""

import html
import io
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Literal

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogFormatter, NullLocator

from modules.api import Audio
from modules.search.analysis.comparisons import selector_label, setting_label
from modules.search.analysis.expected_best_of_n import SELF_JUDGED, CurvePoint

# Okabe and Ito's palette: distinguishable for colour-blind readers, and legible on white and on near-black.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
RANDOM_COLOUR = "#8a8a8a"
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
NARROW_INCHES, NARROW_POINTS = 4.3, 11.5  # width and text of a figure for a telephone
INK = "#123457"  # a unique colour, which `inline_svg` replaces with the page's text colour


class PlainLogFormatter(LogFormatter):
    """2e9 in one size of text, where Matplotlib has a small exponent or 2e+09."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return super().__call__(x, pos).replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")


def log_mel(audio: Audio, num_mels: int = 80) -> np.ndarray:
    """(num_mels or fewer, frames) mel spectrogram in dB below its maximum, floored at -80; one frame per 10 ms."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    samples_T = audio.samples_T.detach().float().cpu().numpy()
    frame_length, hop_length = round(0.04 * audio.sample_rate), round(0.01 * audio.sample_rate)
    fft_length = fft_length_of(audio.sample_rate)
    num_mels = num_mel_bands(audio.sample_rate, num_mels)
    samples_T = np.pad(samples_T, (0, max(0, fft_length - samples_T.size)))
    filters = mel_filter_bank(
        fft_length // 2 + 1, num_mels, 0.0, audio.sample_rate / 2, audio.sample_rate, mel_scale="slaney"
    )
    window = window_function(frame_length, "hann")
    power = spectrogram(samples_T, window, frame_length, hop_length, fft_length, power=2.0, mel_filters=filters)
    decibels = 10 * np.log10(np.maximum(power, 1e-10))
    loudest = max(decibels.max(), -20)  # digital silence is dark
    return np.clip(decibels - loudest, -80, 0)


def fft_length_of(sample_rate: int) -> int:
    return 2 ** math.ceil(math.log2(round(0.04 * sample_rate)))


def num_mel_bands(sample_rate: int, num_mels: int = 80) -> int:
    """`num_mels` or fewer: no filter is narrower than a bin, also at low rates."""
    return min(num_mels, fft_length_of(sample_rate) // 8)


def mel_figure(audios: Sequence[tuple[str, Audio]]) -> Figure:
    """Stacked mel spectrograms with a common time axis and colour scale, so that they can be compared by eye."""
    figure = Figure(figsize=(7, 0.6 + 1.5 * len(audios)), layout="constrained")
    panels = figure.subplots(len(audios), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (title, audio) in zip(panels, audios, strict=True):
        _draw_mel(panel, audio)
        panel.set_title(title, loc="left", fontsize=9)
        ticks = mel_ticks(audio.sample_rate)
        panel.set_yticks([height for height, _ in ticks], [label for _, label in ticks], fontsize=8)
        panel.set_ylabel("kHz", fontsize=8)
        panel.tick_params(axis="x", labelsize=8)
    panels[0].set_xlim(0, max(audio.seconds for _, audio in audios) or 1)
    panels[-1].set_xlabel("time in s", fontsize=8)
    return figure


def mel_ticks(sample_rate: int) -> list[tuple[float, str]]:
    """Height in a mel picture, from 0 to 1, and label in kHz of the octaves from 500 Hz on."""
    from transformers.audio_utils import hertz_to_mel

    num_mels = num_mel_bands(sample_rate)
    ticks = []
    for kilohertz in (0.5, 1, 2, 4, 8, 16):
        mels = hertz_to_mel(1000 * kilohertz, "slaney") / hertz_to_mel(sample_rate / 2, "slaney")
        height = (mels * (num_mels + 1) - 0.5) / num_mels  # bands are as high as each other, centred on their filters
        if 0 < height < 0.95:
            ticks.append((float(height), f"{kilohertz:g}"))
    return ticks


def mel_thumbnail(audio: Audio, seconds: float) -> Figure:
    """A mel spectrogram `seconds` wide without axes, for a page that adds them as text (mel_picture.py)."""
    figure = Figure(figsize=(4.2, 0.9), facecolor="none")
    panel = figure.add_axes((0, 0, 1, 1))
    _draw_mel(panel, audio)
    panel.set_xlim(0, seconds or 1)
    panel.set_axis_off()
    return figure


def _draw_mel(panel: matplotlib.axes.Axes, audio: Audio) -> None:
    panel.set_facecolor("#000004")  # magma's darkest colour: space after a short clip looks silent
    extent = (0, audio.seconds or 1e-3, 0, 1)
    panel.imshow(log_mel(audio), origin="lower", aspect="auto", cmap="magma", vmin=-80, vmax=0, extent=extent)


def frequency_figure(counts_K: np.ndarray, title: str) -> Figure:
    """Frequency of each code, most frequent first, compared with uniform use of the codebook."""
    frequencies_K = np.sort(counts_K)[::-1] / max(1, counts_K.sum())
    figure = Figure(figsize=(7, 3), layout="constrained")
    panel = figure.subplots()
    ranks_K = np.arange(1, frequencies_K.size + 1)
    used_K = frequencies_K > 0
    panel.step(ranks_K[used_K], frequencies_K[used_K], where="mid", color=PALETTE[0], label="codes by frequency")
    panel.axhline(1 / frequencies_K.size, color=RANDOM_COLOUR, linestyle="--", label="even use")
    panel.set(
        xlim=(0.5, frequencies_K.size + 0.5), yscale="log", xlabel="rank of the code", ylabel="fraction of frames"
    )
    panel.set_title(title, loc="left", fontsize=10)
    panel.legend(frameon=False, fontsize=8)
    return figure


def curve_figure(
    points: Sequence[CurvePoint],
    as_error: bool = False,
    all_selectors: Sequence[str] | None = None,
    narrow: bool = False,
) -> Figure:
    """The curves of one prompt set and one judge: a line with its 95 % band per selector, over n on a log2 axis.

    Random is flat and grey, the oracle dashed, self-judged lines dotted; all are labelled. With `as_error` the figure
    shows 1 - score. `all_selectors` are those of all figures of a page, so that each keeps its colour. `narrow` is for
    a telephone.
    """
    selectors = list(dict.fromkeys(point.selector for point in points))
    figure, panel = page_figure(narrow, num_keys=len(selectors))
    colours = selector_colours(all_selectors or selectors)
    for selector in sorted(selectors, key=lambda name: (name != "random", is_oracle(name))):
        curve = sorted((point for point in points if point.selector == selector), key=lambda point: point.n)
        _draw_curve(panel, curve, colours.get(selector), as_error)
    counts = sorted({point.n for point in points})
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_locator(FixedLocator(counts))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if len(counts) > 1:
        panel.set_xlim(counts[0] / 1.08, counts[-1] * 1.08)
    if as_error and max(point.score for point in points) <= 1:
        panel.set_ylim(bottom=min(0, *panel.get_ylim()))
    panel.set_xlabel("candidates to choose from (N)")
    panel.set_ylabel(f"error = 1 - {points[0].judge}" if as_error else f"score by {points[0].judge}")
    finish_axes(panel, narrow)
    return figure


def cost_figure(
    points: Sequence[CurvePoint],
    cost: Literal["flops", "seconds"],
    as_error: bool = False,
    all_selectors: Sequence[str] | None = None,
    narrow: bool = False,
) -> Figure:
    """Score of every search against its cost per prompt: best-of-n as curves, other searches as points with their 95 %
    intervals. Colours are selectors, markers are searches; the oracle, which has no cost, is excluded."""
    known = [point for point in points if getattr(point, cost) > 0]  # excludes NaN
    colours = selector_colours(all_selectors or [point.selector for point in points])
    settings = list(dict.fromkeys(map(setting_label, known)))
    num_keys = len(settings) + len(set(map(selector_label, known)))
    figure, panel = page_figure(narrow, num_keys)
    lines: dict[tuple, list[CurvePoint]] = {}
    for point in known:
        lines.setdefault((setting_label(point), point.selector), []).append(point)
    for (setting, selector), line in lines.items():
        ends = sorted(line, key=lambda point: point.n)
        line = ends[:1] if selector == "random" else sorted(line, key=lambda point: getattr(point, cost))
        mark = MARKS[settings.index(setting) % len(MARKS)]
        _draw_costs(panel, line, cost, mark, colours.get(selector, RANDOM_COLOUR), as_error)
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(PlainLogFormatter())
    panel.xaxis.set_minor_formatter(PlainLogFormatter(minor_thresholds=(1.5, 0.5)))
    of_what = "FLOPs for one prompt" if cost == "flops" else "wall seconds for one prompt"
    panel.set_xlabel(of_what if narrow or cost == "flops" else f"{of_what}, in batches with others")
    if points:
        panel.set_ylabel(f"error = 1 - {points[0].judge}" if as_error else f"score by {points[0].judge}")
    chosen_by = {selector_label(point): colours.get(point.selector, RANDOM_COLOUR) for point in known}
    keys = [
        Line2D([], [], color=colour, linewidth=2, label="random choice" if name == "random" else f"best by {name}")
        for name, colour in chosen_by.items()
    ]
    keys += [
        Line2D([], [], color=INK, linestyle="None", marker=MARKS[place % len(MARKS)], label=setting)
        for place, setting in enumerate(settings)
    ]
    finish_axes(panel, narrow, keys)
    return figure


def _draw_costs(
    panel: matplotlib.axes.Axes, line: list[CurvePoint], cost: str, mark: str, colour: str, as_error: bool
) -> None:
    costs = [getattr(point, cost) for point in line]
    scores = np.array([point.score for point in line])
    below, above = (np.array([getattr(point, end) for point in line]) for end in ("low", "high"))
    if as_error:
        scores, below, above = 1 - scores, 1 - above, 1 - below
    if len(line) > 1:
        panel.plot(costs, scores, color=colour, marker=mark, markersize=4.5, linewidth=1.8)
        panel.fill_between(costs, below, above, color=colour, alpha=0.1, linewidth=0)
    else:
        ends = np.maximum(0, [scores - below, above - scores])
        panel.errorbar(costs, scores, ends, color=colour, marker=mark, markersize=7, linewidth=1.2, capsize=2.5)


def selector_colours(selectors: Sequence[str]) -> dict[str, str]:
    """Assign a colour to every selector, in order, also where it is self-judged; chance and the oracle have none."""
    verifiers = {name: without_label(name) for name in selectors if name != "random" and not is_oracle(name)}
    places = {name: place for place, name in enumerate(dict.fromkeys(verifiers.values()))}
    return {name: PALETTE[places[verifier] % len(PALETTE)] for name, verifier in verifiers.items()}


def is_oracle(selector: str) -> bool:
    return selector.startswith("oracle")


def is_baseline(selector: str) -> bool:
    """Check whether the line is a reference (random choice, the oracle, self-judged) rather than a result."""
    return selector == "random" or is_oracle(selector) or is_self_judged(selector)


def is_self_judged(selector: str) -> bool:
    return selector.endswith(SELF_JUDGED)


def without_label(selector: str) -> str:
    """The verifier's name in a line's."""
    return selector.removesuffix(f" {SELF_JUDGED}")


def _draw_curve(panel: matplotlib.axes.Axes, curve: list[CurvePoint], colour: str | None, as_error: bool) -> None:
    turned = (lambda value: 1 - value) if as_error else (lambda value: value)
    counts, scores = [point.n for point in curve], [turned(point.score) for point in curve]
    lows, highs = [turned(point.low) for point in curve], [turned(point.high) for point in curve]
    selector, style = curve[0].selector, {"marker": "o", "linestyle": "-", "linewidth": 2, "markersize": 4.5}
    label = textwrap.fill(f"best by {selector_label(curve[0])}", 26)
    if is_oracle(selector):
        colour, label = INK, "oracle (selected\nby the judge)"
        style |= {"linestyle": (0, (4, 2)), "linewidth": 1.4, "marker": "None"}
    elif selector == "random":
        colour, label = RANDOM_COLOUR, "random choice"
        style |= {"marker": "None", "linewidth": 1.6}
    elif is_self_judged(selector):
        style |= {"linestyle": ":", "linewidth": 1.6}
    panel.plot(counts, scores, color=colour, label=label, **style)
    if not is_oracle(selector):
        panel.fill_between(counts, lows, highs, color=colour, alpha=0.07 if selector == "random" else 0.13, linewidth=0)


def page_figure(narrow: bool, num_keys: int) -> tuple[Figure, matplotlib.axes.Axes]:
    """An empty figure of a page with room for `num_keys` entries of the legend: beside the panel or, `narrow`, below.

    A narrow one is about as wide (in points) as a telephone's page (in pixels), so that its text keeps its size there.
    """
    size = (NARROW_INCHES, 2.6 + 0.27 * num_keys) if narrow else (8.6, 3.9)
    figure = Figure(figsize=size, layout="constrained", facecolor="none")
    panel = figure.subplots()
    panel.set_facecolor("none")
    return figure, panel


def finish_axes(panel: matplotlib.axes.Axes, narrow: bool = False, keys: Sequence[Line2D] = ()) -> None:
    """Set grid, colours, sizes of text and legend, of `keys` or by default of the lines."""
    panel.grid(axis="y", color=RANDOM_COLOUR, alpha=0.3, linewidth=0.7)
    panel.spines[["top", "right"]].set_visible(False)
    for spine in panel.spines.values():
        spine.set_edgecolor(INK)
    panel.tick_params(which="both", colors=INK, labelsize=NARROW_POINTS if narrow else 10)
    for label in (panel.xaxis.label, panel.yaxis.label):
        label.set(color=INK, fontsize=NARROW_POINTS if narrow else 10)
    # Legend entries in the order of the lines at their right end.
    lines, labels = panel.get_legend_handles_labels()
    by_height = sorted(zip(lines, labels, strict=True), key=lambda pair: -np.nan_to_num(pair[0].get_ydata()[-1]))
    shown = [(key, key.get_label()) for key in keys] or by_height
    if not shown:
        return
    how = {"frameon": False, "labelcolor": INK, "fontsize": NARROW_POINTS if narrow else 9}
    if narrow:
        below = {"loc": "upper center", "bbox_to_anchor": (0.45, -0.24), "labelspacing": 0.3}
        panel.legend(*zip(*((key, label.replace("\n", " ")) for key, label in shown), strict=True), **how, **below)
    else:
        beside = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "labelspacing": 0.9}
        panel.legend(*zip(*shown, strict=True), **how, **beside)


def rendered_pixels(figure: Figure, dots_per_inch: int = 110) -> np.ndarray:
    """Render to (height, width, 3) uint8, as loggers expect images. Transparent figures are drawn on white."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dots_per_inch)
    canvas.draw()
    colours = np.asarray(canvas.buffer_rgba()).astype(np.float32)
    opacity = colours[..., 3:] / 255
    return (colours[..., :3] * opacity + 255 * (1 - opacity)).round().astype(np.uint8)


def png_bytes(figure: Figure, dots_per_inch: int = 100) -> bytes:
    """The figure as a PNG with a colour palette, a third of the size of true colour."""
    from PIL import Image

    image = Image.fromarray(rendered_pixels(figure, dots_per_inch)).quantize(colors=64, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def inline_svg(figure: Figure, description: str) -> str:
    """The figure as an <svg> element without external references; INK takes the text colour of the page. Text stays
    text."""
    buffer = io.StringIO()
    # The salt makes the output deterministic, and names of clip paths distinct: one in a hidden figure clips nothing.
    with matplotlib.rc_context({"svg.hashsalt": description, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href").replace(INK, "currentColor")
    head, body = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)  # the page sets them; the viewBox keeps the proportions
    return f'{head} role="img" aria-label="{html.escape(description)}">{body}'


def both_widths(draw: Callable[..., Figure], description: str) -> Markup:
    """The figure for a screen and that for a telephone (`draw(narrow=True)`), of which the page's style shows one."""
    svgs = {name: inline_svg(draw(narrow=name == "narrow"), description) for name in ("wide", "narrow")}
    return Markup("".join(f'<div class="{name}">{svg}</div>' for name, svg in svgs.items()))
