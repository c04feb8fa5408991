"""The report of a prepared corpus: one self-contained HTML page. Pure functions.

The HTML is in the Jinja template corpus_page.html; this module fills it. The same tables give the same bytes.

Shapes: T audio samples, N recordings.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from modules.api import Audio
from modules.audio import encoded, resampled
from modules.report.drawings import histogram, waveform
from modules.report.page import data_uri, page_environment, readable_setting

MAX_SECONDS = 15  # of a player
MAX_NAMES = 15  # in a table of hours
MAX_KEYS = 3  # examples of a reason or verdict
MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
NOT_STATED = "not stated"


@dataclass(frozen=True)
class Measured:
    """One measure, or published score, of every kept recording: `values_N`, NaN where there is none."""

    name: str
    values_N: np.ndarray
    meaning: str = ""
    thresholds: Sequence[float] = ()


@dataclass(frozen=True)
class CorpusExample:
    """A kept recording to listen to. `reasons`: why it was chosen, such as "lowest snr" or "random"."""

    key: str
    audio: Audio
    text: str
    speaker: str
    reasons: Sequence[str]
    measures: Mapping[str, float]


@dataclass(frozen=True)
class CorpusTables:
    """Content of the page.

    `settings` are shown as a table of facts (sources, sample rate, thresholds). `splits`: number and hours of the kept
    recordings by split. `hours_by`: hours by name for speaker, language and licence; "" is one that is not stated.
    `skipped`: key and reason of what was left out while it was read; details follow a colon. `verdicts`: keys of what
    was left out when all recordings were known, by verdict. `credits`: of the sources.
    """

    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    splits: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    measures: Sequence[Measured] = ()
    hours_by: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    skipped: Sequence[tuple[str, str]] = ()
    verdicts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    examples: Sequence[CorpusExample] = ()
    credits: str = ""

    @property
    def num_kept(self) -> int:
        return sum(number for number, _ in self.splits.values())

    @property
    def hours(self) -> float:
        return sum(hours for _, hours in self.splits.values())

    @property
    def num_left_out(self) -> int:
        return len(self.skipped) + sum(map(len, self.verdicts.values()))


@dataclass(frozen=True)
class LeftOut:
    """Recordings that are not used for one reason: their number, and the first of them with the details."""

    reason: str
    number: int
    examples: Sequence[str]


def corpus_page(tables: CorpusTables) -> str:
    """Render the page. Figures and audio are data URIs; it makes no network requests."""
    environment = page_environment()
    environment.filters |= {
        "audio_uri": lambda audio: data_uri(encoded(playable(audio), "mp3"), "audio/mpeg"),
        "waveform": lambda audio: waveform(playable(audio).samples_T.numpy()),
        "hours": readable_hours,
        "measure": readable_measure,
        "histogram": lambda one: histogram(finite(one.values_N), one.thresholds, f"recordings by {one.name}"),
        "hours_histogram": hours_histogram,
        "unit": unit_of,
        "plain": readable_setting,
        "share": lambda number: readable_share(number, tables.num_kept + tables.num_left_out),
        "readable_name": lambda name: name.replace("_", " "),
        "by_hours": by_hours,
        "quantiles": quantiles,
    }
    return environment.get_template("corpus_page.html").render(
        tables=tables,
        reasons=left_out(tables.skipped),
        verdicts=[LeftOut(name, len(keys), sorted(keys)[:MAX_KEYS]) for name, keys in tables.verdicts.items() if keys],
        examples=sorted(tables.examples, key=lambda example: list(example.reasons) == ["random"]),
        max_names=MAX_NAMES,
        max_seconds=MAX_SECONDS,
    )


def left_out(skipped: Iterable[tuple[str, str]]) -> list[LeftOut]:
    """Skipped recordings by reason, up to its colon; the most common first."""
    by_reason: dict[str, list[str]] = {}
    for key, reason in sorted(skipped):
        kind, _, detail = reason.partition(":")
        by_reason.setdefault(kind, []).append(f"{key}:{detail}" if detail else key)
    rows = [LeftOut(reason, len(items), items[:MAX_KEYS]) for reason, items in by_reason.items()]
    return sorted(rows, key=lambda row: (-row.number, row.reason))


def by_hours(hours: Mapping[str, float]) -> list[tuple[str, float]]:
    """Names with their hours, the most first."""
    return sorted(((name or NOT_STATED, value) for name, value in hours.items()), key=lambda pair: (-pair[1], pair[0]))


def quantiles(values_N: np.ndarray) -> list[float] | None:
    """Smallest value, 1 %, 50 % and 99 %, and the largest; None without a finite value."""
    values_N = finite(values_N)
    return np.quantile(values_N, [0, 0.01, 0.5, 0.99, 1]).tolist() if len(values_N) else None


def finite(values_N: np.ndarray) -> np.ndarray:
    values_N = np.asarray(values_N, dtype=np.float64)
    return values_N[np.isfinite(values_N)]


def unit_of(hours: Sequence[tuple[str, float]]) -> str:
    """Minutes if none has two hours."""
    return "minutes" if max(value for _, value in hours) < 2 else "hours"


def hours_histogram(hours: Sequence[tuple[str, float]], name: str) -> Markup:
    """How many names have how much."""
    unit = unit_of(hours)
    values_N = np.array([value * (60 if unit == "minutes" else 1) for _, value in hours])
    return histogram(values_N, (), f"{unit} by {name}")


def playable(audio: Audio) -> Audio:
    """The first MAX_SECONDS, finite, at a rate that MP3 has."""
    samples_T = audio.samples_T.detach().float().cpu()[: MAX_SECONDS * audio.sample_rate].nan_to_num(0, 0, 0)
    rate = next((rate for rate in MP3_RATES if rate >= audio.sample_rate), MP3_RATES[-1])
    return Audio(torch.from_numpy(resampled(Audio(samples_T, audio.sample_rate), rate)), rate)


def readable_hours(hours: float) -> str:
    hours = round(hours, 6)  # a sum of tenths is not 60.0 min
    if hours >= 1:
        return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.1f} s"


def readable_measure(value: float) -> str:
    """Three digits; a dash where nothing was measured."""
    return "–" if not np.isfinite(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def readable_share(number: int, total: int) -> str:
    share = 100 * number / total if total else 0.0
    return f"{share:.0f} %" if share >= 10 or not share else f"{share:.2g} %"
