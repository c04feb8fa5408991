"""Files that `python run.py say` writes: audio, json, subtitles, and the parts of an unfinished text."""

import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from modules.api import Branch
from modules.frontend.alignment import TimedWord
from modules.speech import load_voice
from modules.speech.sentence_search import SentenceSearch
from tests.conftest import REPOSITORY
from tests.modules.command.conftest import SENTENCES, UNCHECKED, change_facts, record
from tests.toys.tiny_voice import save_run


class ShortCodes:
    """A sampler of one code for any text, which keeps the largest batch."""

    max_rows = 0

    def start(self, prompts):
        return [Branch(prompt, torch.zeros(0, dtype=torch.int64)) for prompt in prompts]

    def extend(self, branches, num_children, max_new_tokens, seeds):
        self.max_rows = max(self.max_rows, num_children * len(branches))
        return [
            Branch(one.prompt, torch.ones(1, dtype=torch.int64), -1.0, True)
            for one in branches
            for _ in range(num_children)
        ]

    def drop(self, branches):
        pass

    def flops(self, num_prompt_tokens, num_codes):
        return 0.0

    def num_prompt_tokens(self, prompt):
        return 4


def test_a_long_text_without_full_stops_is_spoken_in_pieces(say, tmp_path, monkeypatch):
    """Guards against a sentence longer than the model can speak, a word that is lost at a border, and a batch that
    grows with the text."""
    change_facts(save_run(tmp_path, "long"), longest_text=120)
    sampler = ShortCodes()
    monkeypatch.setattr("modules.speech.models.SpeakingModel.sampler", lambda *given: sampler)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    text = ("four two one, two " * 2800 + "one two four " * 4000)[:100_000].rpartition(" ")[0]
    Path("text.txt").write_text(text)
    said = say("--file", "text.txt", "--out", "x.wav", "--root", ".", *UNCHECKED)
    assert said.status == 0, said.err
    pieces = [one["written"] for one in record("x.wav")["sentences"]]
    assert 830 < len(pieces) < 1100 and max(map(len, pieces)) <= 120
    assert " ".join(pieces).split() == text.split()
    assert all(piece.endswith(",") for piece in pieces[:150])  # at clauses where there are any
    assert sampler.max_rows <= 64


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_written_file_says_that_it_is_synthetic(suffix, say, root):
    """Guards against unmarked files, other samples than Python's, and a json of something else."""
    said = say("four two one", "--out", f"new/x.{suffix}", *UNCHECKED)
    assert (said.status, said.err) == (0, "")
    lines = said.out.decode().splitlines()
    assert lines[0].startswith("runs/a: ") and "runs/a/codec/checkpoints/last.ckpt" in lines[0]
    assert [line for line in lines if line.startswith(f"new/x.{suffix}: ") and line.endswith("synthetic")]
    assert sorted(path.name for path in Path("new").iterdir()) == sorted([f"x.{suffix}", "x.json"])
    with soundfile.SoundFile(f"new/x.{suffix}") as file:
        assert file.format.lower().startswith(suffix[:2]) and "synthetic" in file.comment
        samples_T, rate = file.read(), file.samplerate
    about = record("new/x.wav")
    assert about["synthetic"] is True and about["text"] == "four two one" and rate == about["sample_rate"]
    speech = load_voice("runs/a", root=root).say("four two one", language="de")
    assert about["seconds"] == round(speech.audio.seconds, 3)
    if suffix in ("wav", "flac"):
        expected_T = speech.audio.samples_T.clamp(-1, 1).numpy()
        assert np.abs(samples_T - expected_T).max() < 1.1 / 32768
    assert abs(len(samples_T) / rate - speech.audio.seconds) < 0.2  # mp3 has whole frames


def test_inputs_are_not_replaced(say, recording):
    """Guards against a recording or a text that is lost because an output has its name."""
    shutil.copy(recording, "me.wav")
    Path("text.txt").write_text("four two one")
    for words in (
        ["four two one", "--voice", "me.wav", "--voice-text", "four two one four", "--out", "me.wav"],
        ["--file", "text.txt", "--out", "x.wav", "--srt", "text.txt"],
        ["four two one", "--out", "me.wav"],
    ):
        said = say(*words, *UNCHECKED)
        assert said.status == 2 and said.err.count("\n") == 1, said.err
    assert Path("me.wav").read_bytes() == recording.read_bytes() and Path("text.txt").read_text() == "four two one"
    assert sorted(path.name for path in Path().iterdir()) == ["me.wav", "text.txt"]


def test_without_a_name_the_file_is_named_after_its_text(say, root):
    """Guards against two texts in one file, and a name with a slash in it."""
    names = []
    for words in (["Two, one / four"], ["two one four"], ["two one four", "--seed", "1"]):
        said = say(*words, *UNCHECKED)
        assert said.status == 0, said.err
        names.append(Path(re.search(r"^(\S+\.wav): ", said.out.decode(), re.M)[1]))
    assert len(set(names)) == 3 and all(name.parent == root / "runs/speech" and name.is_file() for name in names)
    assert all(re.fullmatch(r"two_one_four-[0-9a-f]{8}\.wav", name.name) for name in names)


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.replace(",", ".").split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(rest)


class EvenAligner:
    """Words of 50 ms, one every 100 ms."""

    def align(self, audio, words):
        return [TimedWord(word, 0.1 * place, 0.1 * place + 0.05) for place, word in enumerate(words)]


def test_subtitles_agree_with_the_json_and_the_audio(say, monkeypatch):
    """Guards against times from the start of a sentence, and subtitles that ignore when words are spoken."""
    monkeypatch.setattr("modules.speech.listeners.Listeners.aligner", lambda *given: EvenAligner())
    # Only the aligner is English here; three lines, which are two subtitles.
    long = " ".join(["four two one"] * 8)
    said = say(f"four two one. [pause:500ms] {long}. Two one four.", "--out", "x.wav", "--srt", "sub/x.srt", *UNCHECKED)
    assert said.status == 0, said.err
    about = record("x.wav")
    cues = re.findall(r"(\d+)\n(\S+) --> (\S+)\n((?:.+\n)+)", Path("sub/x.srt").read_text())
    times = [[seconds(clock) for clock in cue[1:3]] for cue in cues]
    first, second, third = about["sentences"]
    assert [int(cue[0]) for cue in cues] == list(range(1, len(cues) + 1)) and len(cues) >= 4
    assert " ".join(" ".join(cue[3].split()) for cue in cues) == " ".join(
        f"four two one. {long}. Two one four.".split()
    )
    assert times[0] == pytest.approx([first["start"], first["end"]], abs=2e-3)
    assert times[-1] == pytest.approx([third["start"], third["end"]], abs=2e-3)
    assert second["start"] == pytest.approx(first["end"] + 0.5, abs=2e-3)
    place = len(cues[1][3].split())
    assert times[2][0] == pytest.approx(second["words"][place]["start"], abs=2e-3)
    assert second["words"][place]["start"] == pytest.approx(second["start"] + 0.1 * place, abs=2e-3)
    assert [word["word"] for word in second["words"]] == long.split()
    with soundfile.SoundFile("x.wav") as file:
        assert about["seconds"] == third["end"] == pytest.approx(file.frames / file.samplerate, abs=1e-3)


def test_twenty_sentences_load_every_model_once(say, recording, monkeypatch):
    """Guards against loading for each sentence; the loads are counted here too."""
    loads = []

    def counted(name, function):
        return lambda *given, **named: loads.append(name) or function(*given, **named)

    for path in ("modules.lm.saved_model.SavedModel.load", "modules.codec.formats.checkpoints.load_codec",
                 "modules.speech.voice.with_voice_codes", "modules.speech.voice.read_reference"):  # fmt: skip
        module, _, name = path.rpartition(".")
        owner = sys.modules.get(module) or getattr(sys.modules[module.rpartition(".")[0]], module.rpartition(".")[2])
        monkeypatch.setattr(path, counted(name, getattr(owner, name)))
    text = " ".join(SENTENCES[number % 8] for number in range(20))
    said = say(text, "--out", "x.wav", "--voice", str(recording), "--voice-text", "four two one four", *UNCHECKED)
    assert said.status == 0, said.err
    assert sorted(loads) == ["load", "load_codec", "read_reference", "with_voice_codes"]
    about = record("x.wav")
    assert len(about["sentences"]) == 20
    assert about["loaded"] == dict.fromkeys(("language model", "codec", "reference", "speaker encoder"), 1)
    said = say(" ".join(SENTENCES), "--out", "y.wav")
    assert said.status == 0, said.err
    assert record("y.wav")["loaded"] == dict.fromkeys(("language model", "codec", "aligner"), 1)


def test_a_stopped_text_goes_on_where_it_stopped(say, monkeypatch):
    """Guards against work that Ctrl-C loses, a damaged part that ends the command, and other audio than that of an
    uninterrupted command."""
    words = (" ".join(SENTENCES), "--out", "x.wav", *UNCHECKED)
    monkeypatch.setattr("modules.speech.sentence_search.MAX_ROWS", 2)
    assert say(*words).status == 0
    whole = Path("x.wav").read_bytes()
    assert sorted(path.name for path in Path().iterdir()) == ["x.json", "x.wav"]
    for path in list(Path().iterdir()):
        path.unlink()
    batch, calls = SentenceSearch._batch, []

    def stopping(self, tasks, finished):
        calls.append(len(tasks))
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return batch(self, tasks, finished)

    monkeypatch.setattr(SentenceSearch, "_batch", stopping)
    said = say(*words)
    assert said.status == 130 and "Traceback" not in said.err and calls == [2, 2, 2]
    assert len(list(Path("x.wav.parts").iterdir())) == 4
    assert [path.name for path in Path().iterdir()] == ["x.wav.parts"]
    shutil.copytree("x.wav.parts", "copy")
    said = say(*words)
    assert said.status == 0, said.err
    assert "8 sentences, 4 of them from an earlier call" in said.out.decode()
    assert record("x.wav")["num_resumed"] == 4 and Path("x.wav").read_bytes() == whole
    assert sorted(path.name for path in Path().iterdir()) == ["copy", "x.json", "x.wav"]
    first, second = sorted(Path("copy").iterdir())[:2]
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 255
    first.write_bytes(content)
    second.write_bytes(b"")
    Path("copy").rename("x.wav.parts")
    said = say(*words)
    assert said.status == 0 and record("x.wav")["num_resumed"] == 2, said.err
    assert Path("x.wav").read_bytes() == whole


def test_a_shipped_voice_reads_what_the_newest_one_cannot(say, root, tmp_path) -> None:
    """Guards against the first command of the README that fails once a demo has trained a voice of ten words."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "runs").symlink_to(root / "runs")
    (home / "voices").symlink_to(REPOSITORY / "voices")
    said = say("hello", "--root", str(home))
    assert said.status == 0 and b"note: the newest voice, runs/a, knows four, one, two alone" in said.out
    assert b"voices/rms: " in said.out
    assert b"newest voice" not in say("four", "--root", str(home), *UNCHECKED).out
