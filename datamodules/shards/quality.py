"""Quality control of recordings while they are prepared: cheap measures of each, and thresholds that a yaml sets.

Shapes: T samples of audio, F frames, N recordings.
"""

import json
import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from datamodules.shards.shards import by_hash
from modules.api import Audio
from modules.recognition import Normaliser, Recogniser, error_rate
from modules.settings import constructor_settings

FRAME_SECONDS = 0.02
SILENCE_DECIBELS = 40  # a frame that far below the loudest one is silence
FLOOR_DECIBELS = -100.0  # of digital silence: about the noise of 16 bits
FULL_SCALE = 0.9999  # below the largest value of 16 bits; a sine of 100 Hz at 48 kHz stays above it for 2 samples
CLIPPED_RUN = 3  # samples in a row at full scale that count as clipped
# Loudness that a speaker reaches in nine frames of ten, or in one of ten: quantiles of the frames' energies.
NOISE_QUANTILE, SPEECH_QUANTILE = 0.1, 0.9
# Letters of an alphabet that take as long to say as one character: of Han, kana, Hangul, and a figure.
HAN, KANA, HANGUL, FIGURE = 3.0, 2.0, 2.0, 4.0
NO_LETTERS, NO_FIGURES = (
    bytes(code for code in range(128) if chr(code) not in kept) for kept in (string.ascii_letters, string.digits)
)
SCRIPTS = (
    ("\u3005", "\u3007", HAN), ("\u3040", "\u30ff", KANA), ("\u3400", "\u9fff", HAN), ("\uac00", "\ud7a3", HANGUL),
    ("\uf900", "\ufaff", HAN), ("\U00020000", "\U0003ffff", HAN),
)  # fmt: skip
# Measures of which high values are worse; of all others, and of published scores, low ones are.
CORPUS_SETTINGS = ("duplicate_audio", "repeated_text", "held_out_texts", "drop_worst")
HIGH_IS_WORSE = ("peak", "clipped", "silence", "noise", "start", "end", "characters_per_second", "error_rate")
Heard = dict[int, list[str]]
LETTERS = "{:.1f} characters per second"
MEASURES = {
    "seconds": "length in seconds",
    "level": "level of the frames that are not silent, dB of full scale (RMS)",
    "peak": "largest absolute sample, 1 is full scale",
    "clipped": "share of the samples in runs at full scale",
    "silence": f"share of the frames {SILENCE_DECIBELS} dB or more below the loudest",
    "noise": "level of the quiet frames, dB of full scale",
    "snr": "level of the loud frames above the quiet ones, dB",
    "start": "level of the first frame against that of the frames that are not silent, dB",
    "end": "level of the last frame against that of the frames that are not silent, dB",
    "characters_per_second": "letters of the text by second; a character of Chinese counts as three",
    "error_rate": "errors of a recogniser's transcript against the text, by its words or characters",
}


@dataclass(frozen=True)
class Threshold:
    """Bounds of a measure. `reason`: what is said of recordings outside them, with their value times `scale`."""

    measure: str
    reason: str
    scale: float = 1
    low: float = -math.inf
    high: float = math.inf


class QualityControl:
    """Which recordings a preparation keeps. Each threshold is off at None or 0; by default only recordings shorter than
    50 ms, repeated audio and repeated keys are left out.

    `examine` measures one recording, `refusal` applies the thresholds; the choices over the whole corpus are columns of
    the index, made when all recordings are known.

    Args:
        min_seconds: Shortest recording.
        max_seconds: Longest recording.
        long: What happens to longer ones. cut: their first `max_seconds` are kept, with the whole text, which is for
            codecs alone.
        min_level: Lowest level of the speech in dB of full scale (negative), such as -45.
        max_clipped: Largest share of clipped samples, such as 0.001.
        max_silence: Largest share of silent frames, such as 0.6.
        min_snr: Smallest level of the speech above the noise in dB, such as 15. It is an estimate from the loudest and
            the quietest tenth of the frames: low for a recording without a pause.
        max_edge: Highest level of the first and the last 20 ms against the speech in dB (negative), such as -3: louder
            ones are cut within speech.
        min_characters_per_second: Fewest letters of the text by second, such as 3: less text than speech. Read speech
            has 10 to 18. Characters of Chinese count as three letters, of Japanese and Korean syllabaries as two,
            figures as four.
        max_characters_per_second: Most letters by second, such as 30: less speech than text, as of a recording that
            ends early.
        max_error_rate: Highest error rate of the `recogniser`'s transcript, such as 0.3. Recordings that another
            threshold refuses are not recognised.
        recogniser: Speech recogniser, any of modules/verifiers/recognisers.
        normaliser: Of text and transcript, any of modules/verifiers/recognisers/normalise.py; required with a
            recogniser.
        unit: Errors of words, or of characters for languages written without spaces.
        duplicate_audio: Leave out recordings of equal audio but the one of the smallest key.
        repeated_text: Leave out a speaker's repetitions of a text but the one of the smallest key.
        held_out_texts: Leave out of the training split what has the text of a held-out recording.
        drop_worst: Share of the recordings to leave out, by measure (MEASURES) or published score.

    Raises ValueError for values that no threshold can have.
    """

    def __init__(
        self,
        min_seconds: float = 0.05,
        max_seconds: float = 0.0,
        long: Literal["refuse", "cut"] = "refuse",
        min_level: float | None = None,
        max_clipped: float | None = None,
        max_silence: float | None = None,
        min_snr: float | None = None,
        max_edge: float | None = None,
        min_characters_per_second: float | None = None,
        max_characters_per_second: float | None = None,
        max_error_rate: float | None = None,
        recogniser: Recogniser | None = None,
        normaliser: Normaliser | None = None,
        unit: Literal["word", "character"] = "word",
        duplicate_audio: bool = True,
        repeated_text: bool = False,
        held_out_texts: bool = False,
        drop_worst: dict[str, float] | None = None,
    ) -> None:
        self.min_seconds, self.max_seconds, self.long = min_seconds, max_seconds, long
        self.min_level, self.max_clipped, self.max_silence = min_level, max_clipped, max_silence
        self.min_snr, self.max_edge = min_snr, max_edge
        self.min_characters_per_second = min_characters_per_second
        self.max_characters_per_second = max_characters_per_second
        self.max_error_rate, self.recogniser, self.normaliser, self.unit = max_error_rate, recogniser, normaliser, unit
        self.duplicate_audio, self.repeated_text, self.held_out_texts = duplicate_audio, repeated_text, held_out_texts
        self.drop_worst = {name: share for name, share in (drop_worst or {}).items() if share}
        self._check()
        self._thresholds = self._switched_on()

    def _switched_on(self) -> list["Threshold"]:
        longest = self.max_seconds if self.long == "refuse" else 0.0
        edge = "cut within speech: the {} has {{:.1f}} dB of its level"
        lows = (
            ("seconds", self.min_seconds, f"shorter than {1000 * (self.min_seconds or 0):g} ms: {{:.3f}} s", 1),
            ("level", self.min_level, "quiet: {:.1f} dB of full scale", 1),
            ("snr", self.min_snr, "noise: the speech is {:.1f} dB above it", 1),
            ("characters_per_second", self.min_characters_per_second, f"less text than speech: {LETTERS}", 1),
        )
        highs = (
            ("seconds", longest, f"longer than {longest:g} s: {{:.1f}} s", 1),
            ("clipped", self.max_clipped, "clipping: {:.2g} % of the samples at full scale", 100),
            ("silence", self.max_silence, "silence: {:.0f} % of the recording", 100),
            ("start", self.max_edge, edge.format("start"), 1),
            ("end", self.max_edge, edge.format("end"), 1),
            ("characters_per_second", self.max_characters_per_second, f"less speech than text: {LETTERS}", 1),
            ("error_rate", self.max_error_rate, "transcript differs: error rate {:.0f} %", 100),
        )
        return [
            *(Threshold(name, reason, scale, low=value) for name, value, reason, scale in lows if value),
            *(Threshold(name, reason, scale, high=value) for name, value, reason, scale in highs if value),
        ]

    def _check(self) -> None:
        bounds: dict[str, tuple[float, float]] = {
            "min_seconds": (0, math.inf), "max_seconds": (0, math.inf), "min_level": (FLOOR_DECIBELS, 0),
            "max_clipped": (0, 1), "max_silence": (0, 1), "min_snr": (0, -FLOOR_DECIBELS), "max_edge": (-100, 0),
            "min_characters_per_second": (0, math.inf), "max_characters_per_second": (0, math.inf),
            "max_error_rate": (0, math.inf),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            value = getattr(self, name) or 0
            if not low <= value <= high:
                raise ValueError(f"Expected `{name}` to be between {low} and {high}, but got {value}.")
        for low, high in (("min_seconds", "max_seconds"), ("min_characters_per_second", "max_characters_per_second")):
            least, most = getattr(self, low) or 0, getattr(self, high) or math.inf
            if least > most:
                raise ValueError(f"Expected `{low}` to be at most `{high}`={most}, but got {least}.")
        if self.long not in ("refuse", "cut"):
            raise ValueError(f"Expected `long` to be refuse or cut, but got {self.long!r}.")
        if self.unit not in ("word", "character"):
            raise ValueError(f"Expected `unit` to be word or character, but got {self.unit!r}.")
        if (self.recogniser is None) != (self.normaliser is None):
            raise ValueError("Expected a `recogniser` and a `normaliser`, or neither, but got one of them.")
        if self.max_error_rate and self.recogniser is None:
            raise ValueError(f"Expected a `recogniser` for `max_error_rate`={self.max_error_rate}, but got none.")
        for name, share in self.drop_worst.items():
            if not 0 < share < 1:
                raise ValueError(f"Expected the shares of `drop_worst` to be in [0, 1), but got {share} for {name}.")
        if "error_rate" in self.drop_worst and self.recogniser is None:
            raise ValueError("Expected a `recogniser` for `drop_worst` by error_rate, but got none.")

    def cut(self, samples_T: np.ndarray, sample_rate: int) -> np.ndarray:
        """The samples, or with `long` = cut the first `max_seconds` of them; to be examined and stored."""
        if self.long != "cut" or not self.max_seconds:
            return samples_T
        return samples_T[: round(self.max_seconds * sample_rate)]

    def examine(self, samples_T: np.ndarray, sample_rate: int, text: str, language: str = "") -> dict[str, float]:
        """Measures (MEASURES) of one recording of float samples in [-1, 1]; NaN where there is nothing to measure.

        Clipping shows best at the rate of the recording: resampling rounds the edges of what was clipped.
        Error rates are NaN if the recogniser raises ValueError for the recording, or the normaliser leaves nothing of
        its text; other exceptions of the recogniser propagate. Recognisers are told English without a `language`.
        """
        measures = {"seconds": len(samples_T) / sample_rate, **_of_samples(samples_T, sample_rate)}
        letters = letters_in(text)
        measures["characters_per_second"] = letters / measures["seconds"] if letters and len(samples_T) else math.nan
        if self.recogniser is not None:
            measures["error_rate"] = math.nan
            if not self.refusal(measures):
                measures["error_rate"] = self._error_rate(samples_T, sample_rate, text, language or "en")
        return measures

    def _error_rate(self, samples_T: np.ndarray, sample_rate: int, text: str, language: str) -> float:
        assert self.recogniser is not None and self.normaliser is not None
        expected = self.normaliser(text).strip()
        if not expected:
            return math.nan
        try:
            (heard,) = self.recogniser.transcribe([Audio(torch.from_numpy(samples_T), sample_rate)], language)
        except ValueError:
            return math.nan
        return error_rate(expected, self.normaliser(heard), self.unit)

    def refusal(self, measures: Mapping[str, float]) -> str:
        """Why a recording of these measures is not kept, with its value after a colon; "" if it is. NaN passes."""
        for threshold in self._thresholds:
            value = measures.get(threshold.measure, math.nan)
            if value < threshold.low or value > threshold.high:
                return threshold.reason.format(threshold.scale * value)
        return ""

    def thresholds(self) -> dict[str, list[float]]:
        """The thresholds that are on, by measure."""
        found: dict[str, list[float]] = {}
        for one in self._thresholds:
            found.setdefault(one.measure, []).append(one.low if math.isfinite(one.low) else one.high)
        return found

    def threshold_settings(self) -> dict[str, Any]:
        """`settings` of what is decided for each recording as it is read."""
        return {name: value for name, value in self.settings().items() if name not in CORPUS_SETTINGS}

    def corpus_settings(self) -> dict[str, Any]:
        """`settings` of what is decided when all recordings are known."""
        return {name: value for name, value in self.settings().items() if name in CORPUS_SETTINGS}

    def settings(self) -> dict[str, Any]:
        """The arguments that differ from their defaults, as plain JSON: arguments added later change no marker. A
        recogniser is its model's hash and settings, a normaliser its identity."""
        defaults, settings = vars(QualityControl()), {}
        for name, value in vars(self).items():
            if name in ("recogniser", "normaliser", "_thresholds") or (value or 0) == (defaults[name] or 0):
                continue
            settings[name] = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
        if self.drop_worst:
            settings["drop_worst"] = {name: float(share) for name, share in self.drop_worst.items()}
        if self.recogniser is not None and self.normaliser is not None:
            about = {"class": type(self.recogniser).__name__, "model_hash": self.recogniser.model_hash}
            settings["recogniser"] = about | constructor_settings(self.recogniser)
            settings["normaliser"] = self.normaliser.identity
        return json.loads(json.dumps(settings, sort_keys=True, default=str))


def _of_samples(samples_T: np.ndarray, sample_rate: int) -> dict[str, float]:
    """The measures of the samples alone."""
    names = ("level", "peak", "clipped", "silence", "noise", "snr", "start", "end")
    if not len(samples_T):
        return dict.fromkeys(names, math.nan)
    size = min(len(samples_T), max(1, round(FRAME_SECONDS * sample_rate)))
    frames_FT = np.ascontiguousarray(samples_T, dtype=np.float32)[: len(samples_T) // size * size].reshape(-1, size)
    energies_F = np.matmul(frames_FT[:, None], frames_FT[:, :, None])[:, 0, 0] / size
    ordered_F = np.sort(energies_F)
    last, quietest = len(ordered_F) - 1, ordered_F[-1] * 10 ** (-SILENCE_DECIBELS / 10)
    num_silent = int(np.searchsorted(ordered_F, quietest, side="right"))
    level = _decibels(ordered_F[num_silent:].mean()) if num_silent <= last else FLOOR_DECIBELS
    noise, speech = (_decibels(ordered_F[round(share * last)]) for share in (NOISE_QUANTILE, SPEECH_QUANTILE))
    tail_T = np.asarray(samples_T[-size:], dtype=np.float32)
    peak = max(float(samples_T.max()), -float(samples_T.min()))
    clipped = _clipped(samples_T) if peak >= FULL_SCALE else 0.0
    snr, start, end = (
        round(one, 4)
        for one in (speech - noise, _decibels(energies_F[0]) - level, _decibels(tail_T @ tail_T / size) - level)
    )
    return dict(zip(names, (level, peak, clipped, num_silent / len(ordered_F), noise, snr, start, end), strict=True))


def _clipped(samples_T: np.ndarray) -> float:
    """Share of the samples in runs of CLIPPED_RUN or more at full scale."""
    places = np.flatnonzero(np.abs(samples_T) >= FULL_SCALE)
    edges = np.flatnonzero(np.diff(places, prepend=-2, append=len(samples_T) + 2) > 1)
    runs = np.diff(edges)
    return float(runs[runs >= CLIPPED_RUN].sum()) / len(samples_T)


def _decibels(energy: float) -> float:
    """Rounded, because the last digits of a sum of squares differ between processors."""
    return round(max(FLOOR_DECIBELS, 10 * math.log10(energy)), 4) if energy > 0 else FLOOR_DECIBELS


def letters_in(text: str) -> float:
    """Length of a text in letters of an alphabet: those of other scripts, and figures, count as the letters that take
    as long to say; signs and spaces do not count."""
    if text.isascii():
        characters = text.encode()
        num_figures = len(characters.translate(None, NO_FIGURES))
        return len(characters.translate(None, NO_LETTERS)) + FIGURE * num_figures
    return sum(_weight(character) for character in text)


def _weight(character: str) -> float:
    if character.isdecimal():
        return FIGURE
    if not character.isalpha():
        return 0.0
    return next((weight for first, last, weight in SCRIPTS if first <= character <= last), 1.0)


def worst(name: str, values_N: np.ndarray, share: float) -> np.ndarray:
    """(N,) bool: the worst `share` of the recordings by a measure or published score, rounded down; NaN are never among
    them and do not count. Of equal values the later are dropped first, so in the order of keys the smallest stay."""
    values_N = np.where(np.isfinite(values_N), values_N, np.nan)
    badness_N = values_N if name in HIGH_IS_WORSE else -values_N
    order = np.argsort(badness_N, kind="stable")  # NaN last
    num_scored = int(np.isfinite(values_N).sum())
    dropped = np.zeros(len(values_N), dtype=bool)
    num_dropped = int(share * num_scored + 1e-9)  # 29 % of 100 are 28.999999999999996
    dropped[order[num_scored - num_dropped : num_scored]] = True
    return dropped


def rows_to_hear(keys: Sequence[str], measures: Mapping[str, np.ndarray], num_worst: int, num_random: int) -> Heard:
    """Rows of recordings to listen to, with the reasons: the `num_worst` worst by each measure or published score that
    are not all alike, and `num_random` by the hash of their keys. Sorted, so that they can be read in order."""
    found: Heard = {}
    for name, values_N in measures.items():
        badness_N = np.where(np.isfinite(values_N), values_N, np.nan) * (1 if name in HIGH_IS_WORSE else -1)
        best, order = np.nanmin(badness_N, initial=math.inf), np.argsort(-badness_N, kind="stable")
        for row in order[:num_worst].tolist():
            if badness_N[row] > best:
                found.setdefault(row, []).append(f"{'highest' if name in HIGH_IS_WORSE else 'lowest'} {name}")
    for row in by_hash(keys)[:num_random]:
        found.setdefault(row, []).append("random")
    return dict(sorted(found.items()))
