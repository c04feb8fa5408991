"""Flite against Debian's own command, and as a client of a program that may die. Needs `apt-get install flite`."""

import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest

from datamodules.sources import flite, speaking_program
from datamodules.sources.flite import Flite, SpokenWord, program, timed_words

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason=flite.INSTALL)
TEXTS = (
    "Dr. Smith's dog, and O'Neill's cat, don't eat; do they?",
    'On Jan. 5, 1990, he paid $3.50 for 1,200 well-known (old) "x-rays"!',
    "they'd've left at 5:30: all of them",
    "He read the lead article; a red reed will lead us to read",
)
SPOKEN = (
    "doctor smith's dog, and o'neill's cat, don't eat; do they?",
    "on jan. fifth, nineteen ninety, he paid three dollars fifty cents for one thousand two hundred well known old "
    "x rays!",
    "they'd've left at five thirty: all of them",
    "he read the lead article; a red reed will lead us to read",
)


@pytest.fixture(scope="module")
def rms() -> Flite:
    return Flite("rms")


def command(text: str, voice: str, wav: Path) -> str:
    """Write what the command `flite` speaks. Returns its phonemes with their ends, as it prints them."""
    words = ["flite", "-voice", voice, "-psdur", "-t", text, "-o", str(wav)]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@needs_flite
@pytest.mark.parametrize("voice", ["rms", "slt", "awb"])
def test_samples_and_phonemes_are_those_of_the_command(voice: str, tmp_path: Path) -> None:
    """Guards against noise whose state goes from sentence to sentence, and times that drift from the audio."""
    spoken = Flite(voice)
    for text in (*TEXTS[:2], TEXTS[0]):
        printed = command(text, voice, tmp_path / "x.wav")
        with wave.open(str(tmp_path / "x.wav")) as file:
            wanted = np.frombuffer(file.readframes(file.getnframes()), np.int16)
            assert file.getframerate() == spoken.utterance(text).sample_rate == 16_000
        found = spoken.utterance(text)
        assert np.array_equal(found.samples_T, wanted)
        assert [f"{name}:{end:.3f}" for name, end in found.phonemes] == printed.split()
        assert np.array_equal(spoken.speak(text).audio.samples_T.numpy() * 32768, wanted)


@needs_flite
def test_words_are_the_spoken_ones_with_their_ends(rms: Flite) -> None:
    """Guards against words that the voice does not say, marks that are lost, "'s" as a word of its own, and ends that
    are not where the next word's first phoneme starts: the phonemes that -psdur prints are counted word by word."""
    for text, wanted in zip(TEXTS, SPOKEN, strict=True):
        taught = rms.speak(text)
        words, ends = zip(*taught.words, strict=True)
        assert " ".join(words) == wanted
        starts_of_phonemes = [0.0, *(round(end, 5) for _, end in rms.utterance(text).phonemes)]
        assert list(ends) == sorted(set(ends)) and set(ends[:-1]) <= set(starts_of_phonemes)
        assert ends[-1] == taught.audio.seconds == len(taught.audio.samples_T) / 16_000
    phonemes = rms.utterance("we saw cats, here").phonemes
    assert " ".join(name for name, _ in phonemes) == "pau w iy s ao k ae t s pau hh ih r pau"  # "cats," has a pause
    ends = [round(phonemes[last][1], 5) for last in (2, 4, 9)]
    assert [end for _, end in rms.speak("we saw cats, here").words[:-1]] == ends


def test_words_are_joined_and_marked() -> None:
    """Guards, without flite, against text that differs from the words, and marks or clitics at the wrong word."""
    said = [
        SpokenWord("...", "...", "", True, None),
        SpokenWord("_a", "A's", "", False, 0.1),
        SpokenWord("'s", "A's", "', ", True, 0.2),
        SpokenWord("DONT", "Don't", '"?', True, 0.3),
        SpokenWord("-", "-", ";", True, None),
        SpokenWord("ten", "$10", ").", False, 0.4),
        SpokenWord("dollars", "$10", ").", True, 0.5),
    ]
    assert timed_words(said, 1.0) == (("a's,", 0.3), ("don't?", 0.4), ("ten", 0.5), ("dollars.", 1.0))
    with pytest.raises(ValueError, match="nothing to speak"):
        timed_words(said[:1], 1.0)


@needs_flite
@pytest.mark.parametrize("text", ["...", "", " ' \" '", "a caf\N{LATIN SMALL LETTER E WITH ACUTE}", "a\0b"])
def test_what_cannot_be_spoken_has_a_reason(text: str, rms: Flite) -> None:
    """Guards against a corpus that stops at one line, and speech that says something else than the text."""
    with pytest.raises(ValueError, match=r"^nothing to speak$|^a character that flite cannot read: 'é'$"):
        rms.speak(text)
    assert rms.speak("yes").words[0][0] == "yes"


@needs_flite
def test_a_dead_program_is_started_again(rms: Flite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a killed program that takes the rest of a corpus with it, or a sentence that it was not about; and
    against a sentence that kills each program and is tried for ever."""
    wanted = rms.utterance("one two three").samples_T
    first = rms._program.process
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert np.array_equal(rms.utterance("one two three").samples_T, wanted)
    assert rms._program.process is not first
    with monkeypatch.context() as patch:
        patch.setattr(speaking_program.json, "dumps", lambda text: "no json")
        with pytest.raises(ValueError, match="the synthesiser has ended in this sentence: exit status"):
            rms.speak("one two three")
    assert np.array_equal(rms.utterance("one two three").samples_T, wanted)


def tell(spoken: Flite, sender) -> None:
    sender.send((spoken.utterance("one two three").samples_T, spoken._program.process.pid))


@needs_flite
def test_a_copy_in_another_process_has_a_program_of_its_own(rms: Flite) -> None:
    """Guards against two processes that read each other's samples from one pipe, after a fork or a pickle."""
    wanted, pid = rms.utterance("one two three").samples_T, rms._program.process.pid
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=tell, args=(rms, sender))
    child.start()
    samples, other = receiver.recv()
    child.join()
    assert np.array_equal(samples, wanted) and other != pid and child.exitcode == 0
    copy = pickle.loads(pickle.dumps(rms))
    assert np.array_equal(copy.utterance("one two three").samples_T, wanted)
    assert len({copy._program.process.pid, rms._program.process.pid, other}) == 3 and rms._program.process.pid == pid
    process = copy._program.process
    del copy
    assert process.poll() is not None, "a program that nobody asks still runs"


def test_a_missing_library_names_the_command() -> None:
    """Guards against a traceback of ctypes, and a corpus of which every sentence is skipped."""
    with pytest.raises(ImportError, match=re.escape("Install it: apt-get install flite")):
        program("nobody").ask("one")
    with pytest.raises(ValueError, match="Expected `voice` to be one of rms, slt, awb, but got 'kal'"):
        Flite("kal")


def test_the_program_stands_alone() -> None:
    """Guards against an import of the suite or of torch into the program."""
    imports = re.findall(r"^(?:import|from) (\w+)", flite.PROGRAM.read_text(), re.M)
    assert set(imports) == {"collections", "ctypes", "json", "os", "sys", "typing"}
