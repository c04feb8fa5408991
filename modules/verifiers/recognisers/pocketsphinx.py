"""A recogniser independent of Whisper: CMU Sphinx, with grammars. T audio samples."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from modules.api import Audio
from modules.threads import torch_threads
from modules.verifiers.audio import resampled
from modules.verifiers.model_files import content_hash, package_folder

SAMPLE_RATE = 16_000
DIGITS_GRAMMAR = """#JSGF V1.0;
grammar digits;
public <digits> = ( zero | one | two | three | four | five | six | seven | eight | nine )+ ;
"""


class Pocketsphinx:
    """CMU Sphinx's US English acoustic model (GMM-HMM, independent of Whisper) with a grammar.

    Speech is trimmed by energy, normalised to one level and padded with short silences with faint noise: otherwise the
    recogniser inserts short digits in pauses. For the same reason the silence probability between words is higher and
    the word insertion penalty stronger than by default: on composed strings of recorded digits the error falls from
    0.31 to below 0.01. Clips are processed one at a time, because the decoder holds the global interpreter lock.

    Args:
        grammar: JSGF text, or None for the package's own trigram model of English.
        silence_probability: Probability of a pause between two words of the grammar.
        word_insertion_penalty: Factor on the probability for each word of the grammar.
    """

    families = frozenset({"pocketsphinx"})

    def __init__(
        self,
        grammar: str | None = DIGITS_GRAMMAR,
        silence_probability: float = 0.3,
        word_insertion_penalty: float = 1e-4,
    ) -> None:
        self.grammar = grammar
        self.silence_probability = silence_probability
        self.word_insertion_penalty = word_insertion_penalty

    @cached_property
    def _folder(self) -> Path:
        return package_folder("pocketsphinx", "pocketsphinx") / "model" / "en-us" / "en-us"

    @cached_property
    def model_hash(self) -> str:
        """Hash of the acoustic model: grammar and language model do not make it a different judge."""
        return content_hash(sorted(file for file in self._folder.iterdir() if file.name != "README"))

    @cached_property
    @torch_threads()
    def _decoder(self) -> Any:
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise ImportError("This recogniser needs pocketsphinx: pip install pocketsphinx") from error
        if self.grammar is None:
            return Decoder(loglevel="FATAL")
        decoder = Decoder(lm=None, loglevel="FATAL", silprob=self.silence_probability, wip=self.word_insertion_penalty)
        try:
            decoder.add_jsgf_string("grammar", self.grammar)
            decoder.activate_search("grammar")
        except (ValueError, RuntimeError, KeyError) as error:
            raise ValueError(f"Expected `grammar` to be JSGF over known words, but got {self.grammar!r}.") from error
        return decoder

    @torch_threads()
    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        """One text per clip, in lower case; raises ValueError for a language other than English."""
        if language != "en":
            raise ValueError(f"Expected `language` to be 'en' for pocketsphinx, but got {language!r}.")
        return [self._recognise(resampled(audio, SAMPLE_RATE)) for audio in audios]

    def _recognise(self, samples_T: np.ndarray) -> str:
        speech_T = between_silences(samples_T)
        if speech_T.size == 0:
            return ""
        decoder = self._decoder
        decoder.reinit_feat()  # reset the noise and mean estimates of the previous clip
        decoder.start_utt()
        decoder.process_raw((speech_T * 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        return hypothesis.hypstr if hypothesis else ""

    def flops(self, seconds: float) -> float:
        """100 frames a second x every Gaussian of the acoustic model (4-byte means; 3 operations per dimension).

        The search over words is integer work that depends on the audio, and is not counted.
        """
        return 100 * seconds * 3 * (self._folder / "means").stat().st_size / 4


def between_silences(samples_T: np.ndarray) -> np.ndarray:
    """Trim 16 kHz speech to its first and last loud frame, peak 0.5, 0.3 s of faint noise around; (0,) if silent."""
    frame = SAMPLE_RATE // 100
    padded_T = np.pad(samples_T, (0, -len(samples_T) % frame))
    energies = np.sqrt((padded_T.reshape(-1, frame) ** 2).mean(axis=1))
    if not energies.size or energies.max() < 1e-5:
        return np.zeros(0, np.float32)
    loud = np.flatnonzero(energies > 0.03 * energies.max())
    margin = 10 * frame
    start, stop = max(0, loud[0] * frame - margin), (loud[-1] + 1) * frame + margin
    speech_T = np.pad(samples_T[start:stop], 3 * margin)
    noise_T = np.random.default_rng(0).standard_normal(len(speech_T), dtype=np.float32)
    return np.clip(0.5 * speech_T / np.abs(speech_T).max() + 10 ** (-55 / 20) * noise_T, -1, 1)
