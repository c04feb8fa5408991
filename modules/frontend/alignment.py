"""Times of the words in a recording, by forced alignment. Shapes: T audio samples, S frames of 10 ms."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from modules.api import Audio
from modules.audio import checked, resampled
from modules.threads import torch_threads

SAMPLE_RATE = 16_000
FRAME_SECONDS = 0.01
PADDING_SECONDS = 0.2
NOISE_DECIBELS = -60.0  # relative to full scale; speech is levelled to a peak of 0.5
SILENCE_PEAK = 1e-4
# Right texts of recordings have -0.8 to -2.4, with white noise 20 dB below the speech too; other texts have less than
# -2.5 in 95 of 100, if they can be aligned at all. Words cover 0.8 to 1 of the energy of their own recording.
MIN_SCORE = -2.75
MIN_COVERED = 0.6


@dataclass(frozen=True)
class TimedWord:
    """A word and when it is spoken, in seconds from the start of the recording."""

    word: str
    start: float
    end: float


@dataclass(frozen=True)
class Segment:
    """Frames of 10 ms of one word, `end` excluded. `log_score`: summed over the frames, relative to the best active
    state of each, in nats."""

    name: str
    start: int
    end: int
    log_score: float


class PhonemeAligner:
    """CMU Sphinx's US English acoustic model (GMM-HMM) over the phonemes of a known text, with optional silence between
    words.

    Clips are levelled and padded with short silences with faint noise, because the model knows no digital silence. A
    pause of up to about 50 ms may be counted to the word before it. Times are multiples of 10 ms.

    Text that is not what was spoken is refused when it cannot be aligned, when its phonemes fit badly, or when much of
    the sound lies outside of its words: about nine of ten such texts of similar length. A wrong word among right ones
    is not noticed. `python -m benchmarks.alignment` prints errors and refusals.

    Args:
        pronounce: Gives the pronunciations of a word in ARPAbet without stress (modules.frontend.phonemes); raises
            ValueError for a word that it cannot pronounce.
        silence_probability: Probability of a pause between two words.
    """

    def __init__(self, pronounce: Callable[[str], list[tuple[str, ...]]], silence_probability: float = 0.3) -> None:
        self.pronounce = pronounce
        self.silence_probability = silence_probability
        self._names: dict[str, str] = {}  # of words, in the decoder's dictionary

    @cached_property
    @torch_threads()
    def _decoder(self) -> Any:
        try:
            import pocketsphinx
        except ImportError as error:
            raise ImportError("Times of words need pocketsphinx: pip install pocketsphinx") from error
        folder = Path(pocketsphinx.__file__).parent / "model" / "en-us" / "en-us"
        settings = {"lm": None, "dict": None, "loglevel": "FATAL", "silprob": self.silence_probability}
        return pocketsphinx.Decoder(hmm=str(folder), **settings)

    @torch_threads()
    def align(self, audio: Audio, words: Sequence[str]) -> list[TimedWord]:
        """One per word, in order, without overlap and within the audio.

        Raises:
            ValueError: There are no words, a word has no pronunciation, the audio is silent or too short for the words,
                or the words do not fit it.
        """
        names, speech_T, segments = self._aligned(audio, words)
        if (reason := misfit(segments, names, speech_T)) is not None:
            raise ValueError(
                f"Expected `audio` to hold the {len(words)} words {' '.join(words)!r}, but got {audio.seconds:.2f} s "
                f"{reason}."
            )
        return [
            TimedWord(word, *(self._seconds(frame, audio) for frame in (segment.start, segment.end)))
            for word, segment in zip(words, segments, strict=True)
        ]

    @torch_threads()
    def fit(self, audio: Audio, words: Sequence[str]) -> float:
        """Mean log probability per frame of the words, relative to the best active state: at most about 0.

        Raises ValueError as `align`, except for words that fit badly or do not cover the sound.
        """
        names, _, segments = self._aligned(audio, words)
        if [segment.name for segment in segments] != names:
            raise ValueError(f"Expected `audio` to hold the words {' '.join(words)!r}, but they cannot be aligned.")
        return mean_score(segments)

    def _aligned(self, audio: Audio, words: Sequence[str]) -> tuple[list[str], np.ndarray, list[Segment]]:
        """Names of the words, (T,) levelled speech, and what was found in it. Raises ValueError as `align`."""
        if not words:
            raise ValueError("Expected `words` to hold at least one word, but got none.")
        samples_T = resampled(checked(audio), SAMPLE_RATE)
        if not np.abs(samples_T).max() > SILENCE_PEAK:
            raise ValueError("Expected `audio` to hold speech, but got silence.")
        names = [self._name(word) for word in words]
        speech_T = levelled(samples_T)
        return names, speech_T, self._segments(speech_T, names)

    @staticmethod
    def _seconds(frame: int, audio: Audio) -> float:
        return min(max(frame * FRAME_SECONDS - PADDING_SECONDS, 0.0), audio.seconds)

    def _name(self, word: str) -> str:
        """The name of the word in the decoder's dictionary; adds its pronunciations when it is new."""
        if word not in self._names:
            variants, name = self.pronounce(word), f"word{len(self._names)}"
            for index, phonemes in enumerate(variants, 1):
                # The dictionary's names of further variants end with their number.
                self._decoder.add_word(name if index == 1 else f"{name}({index})", " ".join(phonemes), update=False)
            self._names[word] = name
        return self._names[word]

    def _segments(self, speech_T: np.ndarray, names: Sequence[str]) -> list[Segment]:
        """The words that were found, without silence and noise."""
        decoder = self._decoder
        decoder.set_align_text(" ".join(names))
        decoder.reinit_feat()  # reset the noise and mean estimates of the previous clip
        decoder.start_utt()
        decoder.process_raw((speech_T * 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        return [
            Segment(
                found.word.partition("(")[0],  # without the number of the variant
                found.start_frame,
                found.end_frame + 1,
                math.log(found.ascore) if found.ascore > 0 else -math.inf,  # a probability, which may underflow
            )
            for found in decoder.seg() or ()
            if not found.word.startswith(("<", "["))
        ]


def mean_score(segments: Sequence[Segment]) -> float:
    """Log score per frame of the words."""
    return sum(segment.log_score for segment in segments) / sum(segment.end - segment.start for segment in segments)


def misfit(segments: Sequence[Segment], names: Sequence[str], speech_T: np.ndarray) -> str | None:
    """Why the segments are no alignment of these words with the speech; None if they are."""
    if [segment.name for segment in segments] != list(names):
        return "that are too short for them or in which other words are spoken"
    score = mean_score(segments)
    if score < MIN_SCORE:
        return f"in which other words seem to be spoken (score {score:.2f} per frame; at least {MIN_SCORE} is expected)"
    hop = round(FRAME_SECONDS * SAMPLE_RATE)
    energy_S = np.square(speech_T[: len(speech_T) // hop * hop]).reshape(-1, hop).sum(axis=1)
    covered = sum(energy_S[segment.start : segment.end].sum() for segment in segments) / energy_S.sum()
    if covered < MIN_COVERED:
        return f"with more than these words (they cover {covered:.0%} of the sound; {MIN_COVERED:.0%} is expected)"
    return None


def levelled(samples_T: np.ndarray) -> np.ndarray:
    """Peak 0.5, `PADDING_SECONDS` of silence at both ends, faint noise over all."""
    speech_T = np.pad(0.5 * samples_T / np.abs(samples_T).max(), round(PADDING_SECONDS * SAMPLE_RATE))
    noise_T = np.random.default_rng(0).standard_normal(len(speech_T), dtype=np.float32)
    return np.clip(speech_T + 10 ** (NOISE_DECIBELS / 20) * noise_T, -1, 1)
