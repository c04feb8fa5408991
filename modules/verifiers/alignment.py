"""Times of the words in a recording, by forced alignment. T audio samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from modules.api import Audio
from modules.threads import torch_threads
from modules.verifiers.audio import checked, resampled
from modules.verifiers.model_files import package_folder

SAMPLE_RATE = 16_000
FRAME_SECONDS = 0.01
PADDING_SECONDS = 0.2
NOISE_DECIBELS = -60.0  # relative to full scale; speech is levelled to a peak of 0.5
SILENCE_PEAK = 1e-4


@dataclass(frozen=True)
class TimedWord:
    """A word and when it is spoken, in seconds from the start of the recording."""

    word: str
    start: float
    end: float


class PhonemeAligner:
    """CMU Sphinx's US English acoustic model (GMM-HMM) over the phonemes of a known text, with optional silence between
    words.

    Clips are levelled and padded with short silences with faint noise, because the model knows no digital silence.
    Whether the words were spoken at all is not judged, unless they do not fit at all: use a recogniser for that.

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
            from pocketsphinx import Decoder
        except ImportError as error:
            raise ImportError("Times of words need pocketsphinx: pip install pocketsphinx") from error
        folder = package_folder("pocketsphinx", "pocketsphinx") / "model" / "en-us" / "en-us"
        return Decoder(hmm=str(folder), lm=None, dict=None, loglevel="FATAL", silprob=self.silence_probability)

    @torch_threads()
    def align(self, audio: Audio, words: Sequence[str]) -> list[TimedWord]:
        """One per word, in order, without overlap and within the audio.

        Raises:
            ValueError: There are no words, a word has no pronunciation, the audio is silent or too short for the words,
                or the words do not fit it.
        """
        if not words:
            raise ValueError("Expected `words` to hold at least one word, but got none.")
        samples_T = resampled(checked(audio), SAMPLE_RATE)
        if not np.abs(samples_T).max() > SILENCE_PEAK:
            raise ValueError("Expected `audio` to hold speech, but got silence.")
        names = [self._name(word) for word in words]
        segments = self._segments(levelled(samples_T), names)
        if [name for name, *_ in segments] != names:
            raise ValueError(
                f"Expected `audio` to hold the {len(words)} words {' '.join(words)!r}, but {audio.seconds:.2f} s of"
                " audio could not be aligned with them: it is too short, or other words are spoken."
            )
        bounds = [
            min(max(frame * FRAME_SECONDS - PADDING_SECONDS, 0.0), audio.seconds)
            for _, *pair in segments
            for frame in pair
        ]
        return [TimedWord(*timed) for timed in zip(words, bounds[::2], bounds[1::2], strict=True)]

    def _name(self, word: str) -> str:
        """The name of the word in the decoder's dictionary; adds its pronunciations when it is new."""
        if word not in self._names:
            variants, name = self.pronounce(word), f"word{len(self._names)}"
            for index, phonemes in enumerate(variants, 1):
                # The dictionary's names of further variants end with their number.
                self._decoder.add_word(name if index == 1 else f"{name}({index})", " ".join(phonemes), update=False)
            self._names[word] = name
        return self._names[word]

    def _segments(self, samples_T: np.ndarray, names: Sequence[str]) -> list[tuple[str, int, int]]:
        """Name, first frame and end frame (exclusive) of each word that was found."""
        decoder = self._decoder
        decoder.set_align_text(" ".join(names))
        decoder.reinit_feat()  # reset the noise and mean estimates of the previous clip
        decoder.start_utt()
        decoder.process_raw((samples_T * 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        spoken = (one for one in decoder.seg() or () if not one.word.startswith(("<", "[")))  # without silence, noise
        return [(one.word.partition("(")[0], one.start_frame, one.end_frame + 1) for one in spoken]


def levelled(samples_T: np.ndarray) -> np.ndarray:
    """Peak 0.5, `PADDING_SECONDS` of silence at both ends, faint noise over all."""
    speech_T = np.pad(0.5 * samples_T / np.abs(samples_T).max(), round(PADDING_SECONDS * SAMPLE_RATE))
    noise_T = np.random.default_rng(0).standard_normal(len(speech_T), dtype=np.float32)
    return np.clip(speech_T + 10 ** (NOISE_DECIBELS / 20) * noise_T, -1, 1)
