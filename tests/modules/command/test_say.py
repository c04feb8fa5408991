"""`python run.py say`: what it refuses, what it reads, and what it pipes, on small random models."""

import io
import json
import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from modules.codec.formats.checkpoints import save_transformers
from modules.command.speaking import run
from modules.speech import load_voice
from tests.conftest import REPOSITORY
from tests.modules.command.conftest import SENTENCES, TEXT, UNCHECKED, listing, record
from tests.toys.codec_references import small_codec
from tests.toys.llasa_folder import released_tokenizer, save_network

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
    "letters it has not learned": (["naïve"], b"", "'naïve'"),
    "two texts": (["four", "--file", "four.txt"], b"", "one of them alone"),
    "no such file": (["--file", "none.txt"], b"", "none.txt"),
    "a folder as file": (["--file", "folder"], b"", "Is a directory"),
    "unknown model": (["four", "--model", "nothing"], b"", "Here: runs/a"),
    "unknown run": (["four", "--model", "runs/nothing"], b"", "Here: runs/a"),
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


def test_voices_lists_the_names_that_say_takes(root, capsys):
    """Guards against a command that the dispatcher cannot call, and names that say does not know."""
    assert run(["voices", "--root", str(root), "--json"]) == 0
    (listed, *_) = json.loads(capsys.readouterr().out)
    assert listed["name"] == "runs/a" == load_voice(listed["name"], root=root).model.facts.name


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
    assert "\no/x.flac: " in given.stdout
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
    assert "HKUSTAudio/xcodec2" not in printed  # the given codec is used
    assert "voice: 2.8 s, text 'Four two one, four.'" in printed
    about = record("x.wav")
    assert about["model"]["kind"] == "released" and about["model"]["num_codes"] == 65_536
    assert about["sentences"][0]["text"] == "Hello: World."
    assert about["loaded"]["reference"] == 1 and 0.5 < about["seconds"] < 2
    said = say(*words[:-1], "none.wav")
    assert (said.status, said.out) == (2, b"") and said.err.count("\n") == 1
