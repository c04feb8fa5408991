"""Pitch of a voice, and opinion scores by groups of it.

Networks that predict opinion scores also hear how high a voice is: DNSMOS correlates with the fundamental frequency at
-0.788 where listeners' scores do not (arXiv 2606.19951). A mean over all voices then follows the mix of voices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modules.api import Audio, Verifier
from modules.audio import resampled

SAMPLE_RATE = 16_000
LOWEST, HIGHEST = 60.0, 500.0  # Hz, searched
FRAME, HOP = 1024, 320  # samples; a frame holds nearly four periods of the lowest pitch
LOUD = 0.3  # of the loudest frame's level: most such frames are vowels
LIMITS = (140.0, 200.0)  # Hz between the groups, the same in every table
OPINION_ENDS = (1.0, 5.0)  # worst and best opinion score
WHY_BY_PITCH = (
    "Networks that predict opinion scores also respond to the pitch of a voice (arXiv 2606.19951: DNSMOS correlates "
    "with it at -0.788, listeners do not): compare within a group. r: correlation with the pitch here."
)


def predicts_opinions(verifier: Verifier) -> bool:
    """Whether a verifier has the scale of opinion scores."""
    return (verifier.facts.worst_score, verifier.facts.best_score) == OPINION_ENDS


@dataclass(frozen=True)
class PitchGroup:
    """Voices with a median pitch in [low, high) Hz."""

    name: str
    low: float
    high: float

    @property
    def label(self) -> str:
        if not self.low:
            return f"{self.name}, below {self.high:g} Hz"
        return (
            f"{self.name}, from {self.low:g} Hz"
            if math.isinf(self.high)
            else f"{self.name}, {self.low:g} to {self.high:g} Hz"
        )


GROUPS = (
    PitchGroup("low", 0.0, LIMITS[0]),
    PitchGroup("middle", *LIMITS),
    PitchGroup("high", LIMITS[1], math.inf),
)


@dataclass(frozen=True)
class GroupMean:
    """The mean of `num` scores of one group."""

    group: PitchGroup
    num: int
    mean: float


def median_pitch(audio: Audio | None) -> float:
    """Median fundamental frequency in Hz of the loud frames, by YIN (de Cheveigné and Kawahara 2002, as in librosa);
    NaN for no audio, silence, samples that are not finite, and less than a frame."""
    import librosa

    samples_T = np.zeros(0) if audio is None else resampled(audio, SAMPLE_RATE)
    if len(samples_T) < FRAME or not samples_T.any() or not np.isfinite(samples_T).all():
        return math.nan
    level_S = librosa.feature.rms(y=samples_T, frame_length=FRAME, hop_length=HOP)[0]
    pitch_S = librosa.yin(samples_T, fmin=LOWEST, fmax=HIGHEST, sr=SAMPLE_RATE, frame_length=FRAME, hop_length=HOP)
    return float(np.median(pitch_S[level_S > LOUD * level_S.max()]))


def by_pitch(pitches: Sequence[float], scores: Sequence[float]) -> list[GroupMean]:
    """The mean score of each group that has scores. Pairs with a NaN are left out."""
    pairs = [(pitch, score) for pitch, score in zip(pitches, scores, strict=True) if not math.isnan(pitch + score)]
    means = []
    for group in GROUPS:
        own = [score for pitch, score in pairs if group.low <= pitch < group.high]
        if own:
            means.append(GroupMean(group, len(own), float(np.mean(own))))
    return means


def pitch_correlation(pitches: Sequence[float], scores: Sequence[float]) -> float:
    """Pearson correlation of scores with pitch, without pairs with a NaN; NaN for fewer than three pairs, or where one
    of both does not vary."""
    pairs = np.array([pair for pair in zip(pitches, scores, strict=True) if not math.isnan(sum(pair))])
    if len(pairs) < 3 or (np.ptp(pairs, axis=0) == 0).any():
        return math.nan
    return float(np.corrcoef(pairs.T)[0, 1])
