"""`python run.py say`: what it refuses, what it reads, and what it writes, on small random models."""

import io
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from modules.api import Branch
from modules.codec.formats.checkpoints import save_transformers
from modules.command.speaking import run
from modules.speech import load_voice
from modules.speech.narration import Narration
from modules.verifiers.alignment import TimedWord
from tests.conftest import REPOSITORY, speech_like
from tests.toys.codec_references import small_codec
from tests.toys.llasa_folder import released_tokenizer, save_network
from tests.toys.tiny_voice import save_run

UNCHECKED = ("--language", "de")  # no recogniser and no aligner: fewer seconds
TEXT = "Four two one. Two, one! One four two one."
SENTENCES = [f"{one} {two} {three}." for one in ("Four", "Two") for two in ("one", "two") for three in ("one", "four")]


@dataclass(frozen=True)
class Said:
    """What a command left: its status, standard output and standard error."""

    status: int
    out: bytes
    err: str


def change_facts(path: Path, **facts: int) -> None:
    content = torch.load(path, weights_only=True)
    content["training_facts"] |= facts
    torch.save(content, path)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with one run, of random weights, that knows four, one and two."""
    folder = tmp_path_factory.mktemp("root")
    save_run(folder, "a")
    change_facts(folder / "runs/a/lm/checkpoints/last.ckpt", row_length=384)
    return folder


@pytest.fixture(scope="module")
def recording(root) -> Path:
    words = ["four", "two", "one"] * 3
    path = root / "me.wav"
    soundfile.write(path, speech_like(words, 110.0, torch.Generator().manual_seed(7)).numpy(), 16000)
    return path


@pytest.fixture
def say(root, tmp_path, monkeypatch, capfdbinary):
    """Runs the command in this process, in an empty folder. Speech is short: random weights rarely end it."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("MAX_REDRAWS", 0), ("SECONDS_PER_CHARACTER", 0.1), ("SLACK_SECONDS", 0.5)):
        monkeypatch.setattr(f"modules.speech.narration.{name}", value)
    monkeypatch.setenv("SUITE_ROOT", str(root))

    def command(*words: str, stdin: bytes = b"") -> Said:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        try:
            status = run(["say", *words])
        except SystemExit as stop:  # of argparse
            status = stop.code
        sys.stdout.flush()
        output = capfdbinary.readouterr()
        return Said(status, output.out, output.err.decode())

    return command


def listing(*folders: Path) -> set[tuple[Path, int, int]]:
    files = [path for folder in folders for path in folder.rglob("*")]
    return {(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def record(path: Path | str) -> dict:
    return json.loads(Path(path).with_suffix(".json").read_text())


# ------------------------------------------------------------------------------------------------------ what is refused

NUL, NOT_UTF8 = b"four \0 two", b"four \xff two"
REFUSED = {
    "no text": ([], b"", "Expected a text"),
    "empty": ([""], b"", "empty text"),
    "blank": ([" \n\t "], b"", "empty text"),
    "empty stdin": (["-"], b"", "empty text"),
    "emoji": (["😀 🎉"], b"", "words to speak"),
    "punctuation": (["... !?"], b"", "words to speak"),
    "pause alone": (["[pause:500ms]"], b"", "words to speak"),
    "NUL in a file": (["--file", "nul.txt"], b"", "U+0000"),
    "NUL in stdin": (["-"], NUL, "U+0000"),
    "not UTF-8 in a file": (["--file", "bytes.txt"], b"", "byte 0xff at position 5"),
    "not UTF-8 in stdin": (["-"], NOT_UTF8, "byte 0xff at position 5"),
    "not UTF-8 as argument": ([os.fsdecode(NOT_UTF8)], b"", "byte 0xff at position 5"),
    "a code": (["four <|s_12|> two"], b"", "<|s_12|>"),
    "a marker": (["four <|SPEECH_GENERATION_END|>"], b"", "markers"),
    "a hidden marker": (["four <\u200b|s_1|>"], b"", "markers"),
    "a malformed pause": (["four [pause:99h] two"], b"", "[pause:99h]"),
    "digits of another language": (["vier 4", "--language", "de"], b"", "de"),
    "unknown words": (["hello four world"], b"", "'hello', 'world'"),
    "unknown words, streamed": (["hello four world", "--stream"], b"", "'hello', 'world'"),
    "letters it has not learned": (["naïve"], b"", "'ï'"),
    "two texts": (["four", "--file", "four.txt"], b"", "one of them alone"),
    "no such file": (["--file", "none.txt"], b"", "none.txt"),
    "a folder as file": (["--file", "folder"], b"", "Is a directory"),
    "unknown model": (["four", "--model", "nothing"], b"", "Here: runs/a"),
    "unknown hub name": (["four", "--model", "nobody/nothing"], b"", "nobody/nothing"),
    "a damaged checkpoint": (["four", "--model", "cut.ckpt"], b"", "damaged"),
    "unknown codec": (["four", "--codec", "nothing.ckpt"], b"", "nothing.ckpt"),
    "no run": (["four", "--root", "folder"], b"", "make demo"),
    "no root": (["four", "--root", "nowhere"], b"", "--root"),
    "no recording": (["four", "--voice", "none.wav"], b"", "no file at `none.wav`"),
    "no sound": (["four", "--voice", "four.txt"], b"", "neither libsndfile nor FFmpeg can read"),
    "a folder as recording": (["four", "--voice", "folder"], b"", "no file at `folder`"),
    "a silent recording": (["four", "--voice", "silent.wav"], b"", "silence"),
    "a text without its recording": (["four", "--voice-text", "one"], b"", "--voice"),
    "a search without recording": (["four", "--search", "partial_prm_orm"], b"", "--voice"),
    "unknown search": (["four", "--search", "luck"], b"", "invalid choice: 'luck'"),
    "no candidates": (["four", "--best-of", "0"], b"", "'0'"),
    "unknown format": (["four", "--out", "x.xyz"], b"", "x.xyz"),
    "a folder as output": (["four", "--out", "folder.wav"], b"", "Is a directory"),
    "a stream into a file": (["four", "--stream", "--out", "x.wav"], b"", "--stream"),
    "raw without a stream": (["four", "--raw"], b"", "--raw"),
    "temperature 0": (["four", "--temperature", "0"], b"", "above 0"),
    "temperature nan": (["four", "--temperature", "nan"], b"", "above 0"),
    "a seed in letters": (["four", "--seed", "x"], b"", "'x'"),
    "no threads": (["four", "--num-threads", "0"], b"", "'0'"),
    "unknown device": (["four", "--device", "abacus"], b"", "abacus"),
    "unknown option": (["four", "--louder"], b"", "--louder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_spoken_is_one_line_and_nothing_is_written(case, say, root, tmp_path):
    """Guards against tracebacks, against lines before the error, and against files of a command that failed."""
    words, stdin, told = REFUSED[case]
    for name in ("folder", "folder.wav"):
        (tmp_path / name).mkdir()
    for name, content in (("nul.txt", NUL), ("bytes.txt", NOT_UTF8), ("four.txt", b"four")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "cut.ckpt").write_bytes((root / "runs/a/lm/checkpoints/last.ckpt").read_bytes()[:1000])
    soundfile.write(tmp_path / "silent.wav", np.zeros(32000), 16000)
    before = listing(root, tmp_path)
    said = say(*words, stdin=stdin)
    assert said.status == 2
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and said.err.endswith("\n"), said.err
    assert told in said.err
    assert said.out == b""
    assert listing(root, tmp_path) == before


def test_a_terminal_is_no_place_for_a_stream(say, monkeypatch):
    """Guards against bytes of audio on a screen."""
    controller, terminal = pty.openpty()
    with open(controller, "rb", buffering=0) as screen, open(terminal, "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        said = say("four two one", "--stream")
        os.set_blocking(screen.fileno(), False)
        assert screen.read() is None
    assert said.status == 2 and "aplay" in said.err and said.err.count("\n") == 1


# --------------------------------------------------------------------------------------------------------- what is read


class Reached(Exception):
    """The text has reached its reader."""


@pytest.mark.parametrize(
    ("words", "text"),
    [
        *(([text], text) for text in ("--help me", "-5 is cold", "Hello: World.", "null", "[one, two]", "${x}", "1e3")),
        *(
            ([text], text)
            for text in ("  two  ", "\"four\" 'two'", "a=b", "--text=four two", "{four: two}", "!!python x")
        ),
        (["-5", "is", "cold"], "-5 is cold"),
        (["four", "two", "--seed", "1"], "four two"),
        (["--seed", "1", "four", "two"], "four two"),
        (["--seed", "1", "--help me"], "--help me"),
        (["--seed", "1", "--", "--help"], "--help"),
        (["-"], "--file x: [1e3]\r\n ${y} é"),
        (["--file", "text.txt"], "--file x: [1e3]\r\n ${y} é"),
    ],
)
def test_a_text_is_read_byte_for_byte(words, text, say, monkeypatch):
    """Guards against a text that is taken for an option, for YAML or for a reference to another key."""

    def reader(given, language):
        assert given == text
        raise Reached

    monkeypatch.setattr("modules.command.say.read_script", reader)
    Path("text.txt").write_bytes(text.encode())
    with pytest.raises(Reached):
        say(*words, stdin=text.encode())


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


# ------------------------------------------------------------------------------------------------------ what is written


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_written_file_says_that_it_is_synthetic(suffix, say, root):
    """Guards against unmarked files, other samples than Python's, and a json of something else."""
    said = say("four two one", "--out", f"new/x.{suffix}", *UNCHECKED)
    assert (said.status, said.err) == (0, "")
    lines = said.out.decode().splitlines()
    assert lines[0].startswith("runs/a: ") and "runs/a/codec/checkpoints/last.ckpt" in lines[0]
    assert lines[-1].startswith(f"new/x.{suffix}: ") and lines[-1].endswith("synthetic")
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
    assert record("y.wav")["loaded"] == dict.fromkeys(("language model", "codec", "recogniser", "aligner"), 1)


def test_a_stopped_text_goes_on_where_it_stopped(say, monkeypatch):
    """Guards against work that Ctrl-C loses, a damaged part that ends the command, and other audio than that of an
    uninterrupted command."""
    words = (" ".join(SENTENCES), "--out", "x.wav", *UNCHECKED)
    monkeypatch.setattr("modules.speech.narration.MAX_ROWS", 2)
    assert say(*words).status == 0
    whole, whole_T = Path("x.wav").read_bytes(), soundfile.read("x.wav", dtype="int16")[0].astype(int)
    assert sorted(path.name for path in Path().iterdir()) == ["x.json", "x.wav"]
    for path in list(Path().iterdir()):
        path.unlink()
    group, calls = Narration._group, []

    def stopping(self, tasks):
        calls.append(len(tasks))
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return group(self, tasks)

    monkeypatch.setattr(Narration, "_group", stopping)
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
    samples_T = soundfile.read("x.wav", dtype="int16")[0].astype(int)
    assert np.abs(samples_T - whole_T).max() <= 1  # the last digits depend on the batch


# -------------------------------------------------------------------------------------------------------- what is piped


def streamed(root, **options) -> np.ndarray:
    """16-bit samples of Voice.stream."""
    pieces = load_voice("runs/a", root=root).stream(TEXT, **options)
    samples_T = torch.cat([piece.samples_T for piece in pieces]).numpy()
    return np.rint(np.clip(samples_T, -1, 1) * 32767).astype("<i2")


def test_a_stream_is_a_wav_of_unknown_length(say, root, tmp_path):
    """Guards against messages inside the audio, a header that players refuse, and other samples than Python's."""
    before = listing(root, tmp_path)
    said, raw = say(TEXT, "--stream"), say(TEXT, "--stream", "--raw")
    assert said.status == raw.status == 0
    assert said.out[:4] == b"RIFF" and said.out[4:8] == said.out[40:44] == b"\xff" * 4
    expected_T = streamed(root)
    assert np.array_equal(np.frombuffer(said.out[44:], "<i2"), expected_T) and raw.out == said.out[44:]
    decoded_T, rate = soundfile.read(io.BytesIO(said.out), dtype="int16")
    assert rate == 16000 and np.array_equal(decoded_T, expected_T)
    assert said.err.startswith("runs/a: ") and "the first after" in said.err.splitlines()[-1]
    assert listing(root, tmp_path) == before


def test_a_search_is_streamed_by_the_sentence(say, root):
    """Guards against a search that a stream leaves out in silence."""
    said = say("two one four. one two two.", "--stream", "--raw", "--best-of", "2", "--verbose", *UNCHECKED)
    assert said.status == 0 and "sentence by sentence" in said.err
    speech = load_voice("runs/a", root=root).say("two one four. one two two.", best_of=2, language="de")
    assert len(said.out) == 2 * speech.audio.samples_T.numel()


def test_a_reader_that_leaves_ends_the_stream_quietly(root, tmp_path):
    """Guards against a traceback of a closed pipe, and against sampling for nobody. Real processes."""
    text = " ".join(SENTENCES * 8)
    command = f"{sys.executable} {REPOSITORY / 'run.py'} say - --stream --num-threads 1 --root {root}"
    script = (
        f"printf %s {shlex.quote(text)} | {command} 2>said.txt | head -c 100; echo -n ${{PIPESTATUS[1]}} >status.txt"
    )
    heard = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, timeout=300)
    said = (tmp_path / "said.txt").read_text()
    assert (tmp_path / "status.txt").read_text() == "0", said
    assert len(heard.stdout) == 100 and heard.stdout.startswith(b"RIFF") and heard.stderr == b""
    assert said.startswith("runs/a: ") and said.count("\n") == 1  # it never came to its last line


# -------------------------------------------------------------------------------------------------------- from anywhere


def test_llasa_speaks_from_any_folder(root, recording, tmp_path):
    """Guards against paths below the repository, and warnings of packages on standard error. A real process."""
    (tmp_path / "me.wav").write_bytes(recording.read_bytes())
    (tmp_path / "text.txt").write_text("Four: two, one.")
    words = ["--file", "text.txt", "--voice", "me.wav", "--voice-text", "four two one four", "--out", "o/x.flac"]
    command = [sys.executable, "-c", "import llasa; llasa.main()", "say", *words, "--num-threads", "1", *UNCHECKED]
    environment = {**os.environ, "SUITE_ROOT": "", "PYTHONPATH": str(REPOSITORY)}
    given = subprocess.run(
        [*command, "--root", str(root)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (given.returncode, given.stderr) == (0, "")
    assert given.stdout.startswith("runs/a: ") and "voice: 2.8 s, text 'four two one four'" in given.stdout
    assert given.stdout.splitlines()[-1].startswith("o/x.flac: ")
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["x.flac", "x.json"]
    assert record(tmp_path / "o/x.flac")["settings"]["reference"] == "me.wav"


def test_a_released_llasa_continues_a_recording(say, recording, tmp_path, monkeypatch):
    """Guards against a released folder that only Python can speak with, and a progress bar before what is said."""
    released_tokenizer().save_pretrained("llasa")
    save_network(Path("llasa"), tied=True)
    save_transformers(small_codec(), Path("codec"))
    words = ("Hello: World. ", "--model", "llasa", "--codec", "codec", "--voice", str(recording))
    said = say(*words, "--voice-text", "Four two one, four.", "--out", "x.wav", *UNCHECKED)
    assert (said.status, said.err) == (0, "")
    printed = said.out.decode()
    assert printed.splitlines()[0].startswith(f"{tmp_path / 'llasa'}: 3,103,152 parameters, codec codec")
    assert "HKUSTAudio/xcodec2" in printed
    assert "voice: 2.8 s, text 'Four two one, four.'" in printed
    about = record("x.wav")
    assert about["model"]["kind"] == "released" and about["model"]["num_codes"] == 65_536
    assert about["sentences"][0]["text"] == "Hello: World."
    assert about["loaded"]["reference"] == 1 and 0.5 < about["seconds"] < 2
    said = say(*words[:-1], "none.wav")
    assert (said.status, said.out) == (2, b"") and said.err.count("\n") == 1
