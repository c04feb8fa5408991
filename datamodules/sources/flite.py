"""Flite: a voice of CMU Flite, run as a separate program (flite_program.py). Shape letter: T audio samples."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from datamodules.sources.speaking_program import SpeakingProgram
from datamodules.sources.teacher import Taught
from modules.api import Audio
from modules.frontend.phonemes import MARKS

PROGRAM = Path(__file__).with_name("flite_program.py")
INSTALL = "apt-get install flite"
SPELT = {"led": "lead", "leed": "lead", "red": "read", "reed": "read"}  # spelled by flite: written
ARPABET = {"ax": "AH", "pau": "SIL"}  # of flite's phonemes those that are not ARPAbet in lower case
SPEAKERS = {"rms": "a US English man", "slt": "a US English woman", "awb": "a Scottish English man"}
CREDITS = """Voice cmu_us_{voice} ({speaker}) of CMU Flite, http://www.festvox.org/flite.

Flite (BSD-style licence): Language Technologies Institute, Carnegie Mellon University, copyright (c) 1999-2017, all
rights reserved. Permission is hereby granted, free of charge, to use and distribute this software and its
documentation without restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of this work, and to permit persons to whom this work is furnished to do so,
subject to the following conditions: 1. The code must retain the above copyright notice, this list of conditions and the
following disclaimer. 2. Any modifications must be clearly marked as such. 3. Original authors' names are not deleted.
4. The authors' names are not used to endorse or promote products derived from this software without specific prior
written permission. Carnegie Mellon University and the contributors to this work disclaim all warranties with regard to
this software, including all implied warranties of merchantability and fitness.

The voice is built from the CMU Arctic recordings of {voice} (http://festvox.org/cmu_arctic), copyright (c) 2003
Carnegie Mellon University, free to use, copy and distribute, also commercially, under conditions like those above."""


@dataclass(frozen=True)
class SpokenWord:
    """A word as flite speaks it: its token as written, the punctuation after that, whether the word is the token's last
    one, and the start of its first phoneme in seconds, None if it has no sound."""

    name: str
    token: str
    punctuation: str
    ends_token: bool
    start: float | None


@dataclass(frozen=True)
class Utterance:
    """What flite has spoken: samples (T,) int16, (phoneme, end in seconds) in order, and the words."""

    samples_T: np.ndarray
    sample_rate: int
    phonemes: tuple[tuple[str, float], ...]
    words: tuple[SpokenWord, ...]


class Flite:
    """A voice of Debian's package flite at 16 kHz; the samples are those of `flite -voice VOICE -t TEXT`.

    The program starts on first use, once per process; a copy in another process starts its own.

    Args:
        voice: A voice of CMU Arctic.
    """

    name = "flite"
    license = "flite's BSD-style licence, CMU Arctic's licence"

    def __init__(self, voice: Literal["rms", "slt", "awb"] = "rms") -> None:
        if voice not in SPEAKERS:
            raise ValueError(f"Expected `voice` to be one of {', '.join(SPEAKERS)}, but got {voice!r}.")
        self.voice = voice
        self._program = program(voice)

    def __repr__(self) -> str:
        return f"Flite({self.voice!r})"

    def speak(self, text: str) -> Taught:
        """Raises ValueError if the text has nothing to speak or kills the program, ImportError without flite."""
        spoken = self.utterance(text)
        audio = Audio(torch.from_numpy(spoken.samples_T.astype(np.float32) / 32768), spoken.sample_rate)
        return Taught(audio, timed_words(spoken.words, audio.seconds), arpabet(spoken.phonemes))

    def utterance(self, text: str) -> Utterance:
        """What flite makes of a text. Raises as `speak`."""
        if not text.isascii():
            odd = next(character for character in text if not character.isascii())
            raise ValueError(f"a character that flite cannot read: {odd!r}")
        about, samples = self._program.ask(text)
        words = tuple(SpokenWord(**word) for word in about["words"])
        phonemes = tuple((name, end) for name, end in about["phonemes"])
        return Utterance(np.frombuffer(samples, np.int16), about["sample_rate"], phonemes, words)

    def credits(self) -> str:
        return CREDITS.format(voice=self.voice, speaker=SPEAKERS[self.voice])


def program(voice: str) -> SpeakingProgram:
    return SpeakingProgram(
        [sys.executable, "-I", "-S", str(PROGRAM), voice], f"libflite for the voice {voice}", INSTALL
    )


def arpabet(phonemes: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """Flite's phonemes with the names of ARPAbet without stress; SIL is a pause."""
    return tuple((ARPABET.get(name, name.upper()), round(end, 4)) for name, end in phonemes)


def timed_words(words: Sequence[SpokenWord], seconds: float) -> tuple[tuple[str, float], ...]:
    """Words with punctuation and their ends, of flite's words in audio of `seconds`. Raises ValueError without any.

    "'s" is part of the word before it. As written are apostrophes, which flite drops in "don't", and "lead" and "read",
    which it spells by their sound.
    """
    names: list[str] = []
    starts: list[float] = []
    in_token = 0  # number of words in the present token
    for word in words:
        name = word.name.lower().removeprefix("_")  # "_a": the letter, not the article
        if name.startswith("'") and in_token:
            names[-1] += name
        elif word.start is not None and name:
            names.append(name)
            starts.append(word.start)
            in_token += 1
        if word.ends_token and names:
            written, plain = word.token.lower(), names[-1].replace("'", "")
            if in_token == 1 and (plain == written.replace("'", "") or SPELT.get(plain) == written):
                names[-1] = written
            if names[-1][-1] not in MARKS:
                names[-1] += next((mark for mark in word.punctuation if mark in MARKS), "")
        if word.ends_token:
            in_token = 0
    if not names:
        raise ValueError("nothing to speak")
    ends = [round(start, 5) for start in starts[1:]] + [seconds]
    return tuple(zip(names, ends, strict=True))
