"""`python run.py voices`: what it prints for people and for programs."""

import json
import sys

from modules.command.voices import codec_cell, main, short_number, spoken
from tests.toys.tiny_voice import save_run


def test_every_voice_has_a_line_and_a_damaged_one_its_reason(tmp_path, capsys, monkeypatch):
    """Guards against one damaged file that hides all voices, and against reading weights to print a table."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "none"))
    for name in ("instantiate", "restored_network"):
        monkeypatch.setattr(f"modules.lm.checkpoints.{name}", lambda *given, **named: 1 / 0)
    save_run(tmp_path, "a")
    broken = save_run(tmp_path, "b")
    broken.write_bytes(broken.read_bytes()[:100])
    assert main([], tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    header, line, reason = lines
    for word in ("runs/a", "run", "en", "CC0-1.0", "four, one, two", "no", "runs/a/codec/checkpoints/last.ckpt"):
        assert f"  {word}" in f"  {line}", word
    assert [header.index(name) for name in ("kind", "codec")] == [line.index(" run ") + 1, line.index("runs/a/codec")]
    assert reason.startswith("runs/b/lm: cannot speak: ") or reason.startswith("runs/b: cannot speak: ")
    assert "damaged" in reason
    assert main(["--json"], tmp_path) == 0
    whole, damaged = sorted(json.loads(capsys.readouterr().out), key=lambda one: bool(one["problem"]))
    assert whole["words"] == ["four", "one", "two"] and whole["sampling"]["temperature"] == 0.6
    assert "damaged" in damaged["problem"]


def test_a_codec_is_named_by_a_short_path_and_its_size(tmp_path, monkeypatch):
    """Guards against absolute paths below the working folder, and a size without the codec that a voice needs."""
    (tmp_path / "voices").mkdir()
    file = tmp_path / "voices" / "codec.ckpt"
    file.write_bytes(bytes(2_000_000))
    assert codec_cell(str(file)) == f"{file}, 2 MB"
    monkeypatch.chdir(tmp_path)
    assert codec_cell(str(file)) == codec_cell("voices/codec.ckpt") == "voices/codec.ckpt, 2 MB"
    assert codec_cell("HKUSTAudio/xcodec2") == "HKUSTAudio/xcodec2" and codec_cell("").startswith("unknown")


def test_an_empty_place_says_how_to_get_a_voice(tmp_path, capsys, monkeypatch):
    """Guards against an empty table, and against JSON with sentences in it."""
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "none"))
    assert main([], tmp_path) == 0
    said = capsys.readouterr().out
    assert "make demo" in said and "--model HKUSTAudio/Llasa-1B" in said and len(said.splitlines()) == 1
    assert main(["--json"], tmp_path) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_what_a_voice_speaks_is_short(capsys):
    """Guards against a table as wide as a vocabulary."""
    digits = sorted(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    assert spoken(digits) == "zero to nine"
    assert spoken(None) == "any text"
    many = [f"word{number}" for number in range(100)]
    assert len(spoken(many)) <= 60 and "100 words" in spoken(many)
    assert [short_number(number) for number in (12, 6_231_296, 1_370_000_000)] == ["12", "6.2M", "1.4B"]


def test_listing_imports_no_transformers(tmp_path):
    """Guards against a listing that takes as long as loading: transformers alone imports for seconds."""
    import subprocess

    program = (
        "import sys; from pathlib import Path; from modules.command.voices import main; main([], Path(sys.argv[1]));"
        "print({'transformers', 'lightning', 'torch.distributed.tensor'} & sys.modules.keys() or 'light')"
    )
    save_run(tmp_path, "a")
    output = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert output.stdout.splitlines()[-1] == "light", output.stdout
