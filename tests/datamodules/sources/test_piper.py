"""Piper: its client against a stub, and piper-tts itself where PIPER_PYTHON (or piper_env/bin/python) has it."""

import multiprocessing
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datamodules.sources import piper
from datamodules.sources.piper import Piper, word_ends
from datamodules.sources.source import Recording
from datamodules.sources.teacher import Taught, TeacherSource
from tests.conftest import REPOSITORY
from tests.toys.spoken_sentences import ListedSentences

PYTHON = os.environ.get("PIPER_PYTHON") or str(REPOSITORY / "piper_env/bin/python")
needs_piper = pytest.mark.skipif(
    not Path(PYTHON).exists(), reason=f"PIPER_PYTHON=piper_env/bin/python, after {piper.INSTALL}"
)
TEXTS = (
    "Dr. Smith paid $3.50 for 2 well-known books, and left the rest of it to a friend!",
    "Where are they? All of them are in the garden,",
    "it was a matter of an hour",
)
SPOKEN = (
    "doctor smith paid three dollars and fifty cents for two well known books, and left the rest of it to a friend!",
    "where are they? all of them are in the garden,",
    "it was a matter of an hour",
)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Piper:
    monkeypatch.setattr(piper, "PROGRAM", REPOSITORY / "tests/toys/stub_synthesiser.py")
    return Piper("a/tones.onnx", sys.executable, "CC0 1.0")


@pytest.fixture(scope="module")
def joe() -> Piper:
    return Piper(python=PYTHON)


def test_words_end_where_the_next_phoneme_starts(stub: Piper) -> None:
    """Guards against a space that is part of the word after it, words that espeak joins, and a comma at the end:
    letters of 100 samples are counted by hand."""
    taught = stub.speak("All of THE 2 cats,")
    ends = {"all": 5, "of": 7, "the": 11, "two": 15}  # with the start mark and the spaces
    assert taught.words[:-1] == tuple((word, round(end * 100 / 22_050, 5)) for word, end in ends.items())
    assert taught.words[-1] == ("cats,", taught.audio.seconds)
    assert len(taught.audio.samples_T) == 22 * 100 and taught.audio.samples_T[0] == 256 / 32768


def test_what_is_not_the_text_has_a_reason(stub: Piper) -> None:
    """Guards against words with the times of others, and a corpus that stops at one line."""
    for text, reason in (
        ("an x here", "a number of spoken words that differs from the text's, 3"),
        ("it was refused", "a phoneme that the voice lacks"),
        ("...", "nothing to speak"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
            stub.speak(text)
    assert len(stub.speak("still here").words) == 2


def test_joined_words_are_told_apart_by_their_sound() -> None:
    """Guards against ends inside a word, and joined words in place of others: espeak's phonemes, divided by hand."""
    sentence = "^ˈɑːɹkɪtˌɛktʃɚɹ |əv|ə |kəmpjˈuːɾɚ |ðˌæn|ə |nˈoʊt.$"
    alone = ["ˈɑːɹkɪtˌɛktʃɚ", "ʌv", "ˈeɪ", "kəmpjˈuːɾɚ", "ðɐn", "ˈeɪ", "nˈoʊt"]
    lengths = [len(part) for part in sentence.split("|")]
    phonemes = [(symbol, 10) for symbol in sentence.replace("|", "")]
    assert word_ends(phonemes, alone) == [10 * sum(lengths[:number]) for number in range(1, 7)]
    with pytest.raises(ValueError, match="differs from the text's, 4"):
        word_ends(phonemes, alone[:4])
    with pytest.raises(ValueError, match="a word without sound"):
        word_ends([("a", 10), (" ", 0), ("b", 0)], ["a", "b"])


def test_every_clip_names_the_licences(stub: Piper) -> None:
    """Guards against speech whose restricted lineage is lost on the way, and a voice without a licence."""
    source = TeacherSource(Piper(), [ListedSentences(("one two",))], num_held_out=0, num_test=0)
    (item,) = source.items()
    assert item.license == (
        "recordings CC0; weights fine-tuned from Lessac's voice, whose corpus restricts commercial use; text: CC0 1.0"
    )
    assert "restricts commercial use" in source.credits() and "GPL-3.0-or-later" in source.credits()
    assert source.source_name == "piper-joe_us"
    source = TeacherSource(stub, [ListedSentences(("one two",))], num_held_out=0, num_test=0)
    (recording,) = source.recordings()
    assert isinstance(recording, Recording) and recording.license == "CC0 1.0; text: CC0 1.0"
    assert recording.source == "piper-tones" and "Lessac" not in source.credits()
    with pytest.raises(ValueError, match=r"Expected `license` to state the licence of the voice x\.onnx, but got none"):
        Piper("x.onnx")


def test_a_missing_program_names_the_commands(stub: Piper) -> None:
    """Guards against a corpus of which every sentence is skipped, or a traceback of another environment."""
    for voice, python, reason in (
        ("none", sys.executable, "but got no voice"),
        ("tones", "nowhere/bin/python", "No such file"),
    ):
        with pytest.raises(ImportError, match=f"{reason}.*Install it: {re.escape(piper.INSTALL)}"):
            Piper(voice, python, "CC0 1.0").speak("one")


def test_a_python_without_piper_says_so(tmp_path: Path) -> None:
    """Guards against a program that fails on its imports before it can say what is missing; -S hides all packages."""
    command = [sys.executable, "-I", "-S", str(piper.PROGRAM), piper.JOE]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(r'\{"missing": "ModuleNotFoundError: .*"\}\n', ran.stdout)


def test_the_project_neither_imports_nor_requires_piper() -> None:
    """Guards against code under the GPL in this project: a package named piper is imported by the program alone."""
    imports = re.compile(r"^\s*(?:from|import) (?:piper|onnx)\b|import_module\(.piper\b|piper_program import", re.M)
    folders = ("modules", "datamodules", "callbacks", "scripts", "benchmarks")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py") if path != piper.PROGRAM]
    assert len(files) > 100 and not [path for path in files if imports.search(path.read_text())]
    assert imports.search(piper.PROGRAM.read_text())
    pages = [*REPOSITORY.glob("requirements*.txt"), REPOSITORY / "pyproject.toml"]
    assert not [page for page in pages if "piper-tts" in page.read_text()]


def spoken(voice: Piper, texts: tuple[str, ...]) -> dict[str, Taught]:
    return {text: voice.speak(text) for text in texts}


def tell(voice: Piper, sender) -> None:
    found = spoken(voice, TEXTS[::-1])
    sender.send({text: (one.audio.samples_T.numpy(), one.words) for text, one in found.items()})


@needs_piper
def test_a_sentence_sounds_the_same_in_any_order_and_process(joe: Piper) -> None:
    """Guards against noise without a seed: shards would differ between one process, two and a resumed run."""
    wanted = spoken(joe, TEXTS)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=tell, args=(pickle.loads(pickle.dumps(joe)), sender))
    child.start()
    other = receiver.recv()
    child.join()
    again = spoken(joe, TEXTS[1:] + TEXTS[:1])
    for text, one in wanted.items():
        samples, words = other[text]
        assert np.array_equal(samples, one.audio.samples_T) and words == one.words
        assert np.array_equal(again[text].audio.samples_T, one.audio.samples_T) and again[text].words == one.words


@needs_piper
def test_words_are_the_text_with_plausible_ends(joe: Piper) -> None:
    """Guards against words that differ from what is spoken, and ends that do not follow the audio: a word with a comma
    ends after its silence."""
    for text, wanted in zip(TEXTS, SPOKEN, strict=True):
        taught = joe.speak(text)
        words, ends = zip(*taught.words, strict=True)
        assert " ".join(words) == wanted and taught.audio.sample_rate == 22_050
        assert list(ends) == sorted(set(ends)) and ends[-1] == taught.audio.seconds
        assert min(np.diff([0.0, *ends])) > 0.02 and 0.1 < taught.audio.samples_T.abs().max() < 1
    taught = joe.speak("we saw cats, here")
    end = round(taught.words[2][1] * 22_050)
    loudness = [float(part.square().mean()) for part in taught.audio.samples_T[end - 2205 : end + 4410].split(2205)]
    assert loudness[0] < 0.1 * max(loudness[1:])
