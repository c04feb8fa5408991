"""KaldiSource on data directories."""

from pathlib import Path

import pytest

from datamodules.sources.kaldi import KaldiSource
from tests.toys.miniatures import found_in, write_text, write_tone
from tests.toys.tar_miniatures import tone


def write_directories(root: Path) -> Path:
    """Train has segments, commands and an archive, its lines out of order; dev is without segments; train/split2 holds
    copies."""
    write_tone(root / "audio/reco 1.wav", 16_000, 0.3)
    write_tone(root / "audio/plain.wav", 8_000, 0.2)
    first = tone(0.1, audio_format="WAV")
    write_text(root / "audio/wavs.ark", b"one " + first + b"two " + tone(0.2, audio_format="WAV"))
    scp = ["reco1 audio/reco 1.wav", f"two audio/wavs.ark:{len(first) + 8}", "piped cat audio/plain.wav |"]
    scp += ["bad audio/wavs.ark:3", "two audio/again.wav"]
    segments = [
        "u2 reco1 0.2 -1",
        "u1 reco1 0.05 0.15",
        "u3 two 0 -1",
        "u4 piped 0.0 0.1",
        "u5 gone 0 1",
        "u6 reco1 x 1",
    ]
    segments += ["u7 reco1 0.2 0.1", "u8 bad 0 -1", "u9 reco1 0 -1"]
    write_text(root / "data/train/wav.scp", "\n".join(scp) + "\n")
    write_text(root / "data/train/segments", "\n".join(segments) + "\n")
    texts = "u3 third\nu1   first  words\nu2 second\nu4 fourth\nu5 x\nu6 x\nu7 x\nu8 eighth\nu9\nnone no segment\n"
    write_text(root / "data/train/text", texts.encode() + b"u10 caf\xe9\n")
    write_text(root / "data/train/utt2spk", "u1 ann\nu2 ann\nu3 bob\n")
    write_text(root / "data/train/spk2gender", "ann f\n")
    write_text(root / "data/train/split2/1/wav.scp", "reco1 audio/reco 1.wav\n")
    write_text(root / "data/dev/wav.scp", "plain audio/plain.wav\n")
    write_text(root / "data/dev/text", "plain Whole recording.\n")
    write_text(root / "data/dev/utt2lang", "plain de\n")
    return root


def test_kaldi_as_published(tmp_path: Path):
    """Guards segments to the end, utterances that are recordings, archives, empty texts, lines in any order, splits,
    and commands that nobody allowed."""
    root = write_directories(tmp_path)
    write_text(root / "data/dev/wav.scp", "plain audio/plain.wav\nevil touch ran; cat audio/plain.wav |\n")
    write_text(root / "data/dev/text", "plain Whole recording.\nevil no\n")
    found = found_in(KaldiSource(root, name="corpus"))
    texts = {name: one.text for name, one in found.kept.items()}
    assert texts == {"u1": "first words", "u2": "second", "u3": "third", "plain": "Whole recording."}
    assert {name: one.speaker for name, one in found.kept.items()} == {
        "u1": "ann",
        "u2": "ann",
        "u3": "bob",
        "plain": "",
    }
    lengths = {name: one.audio.samples_T.numel() for name, one in found.kept.items()}
    assert lengths == {"u1": 1600, "u2": 1600, "u3": 3200, "plain": 1600}
    assert found.hours == pytest.approx((0.1 + 0.1 + 0.2 + 0.2) / 3600)
    assert found.splits == {"u1": "train", "u2": "train", "u3": "train", "plain": "held_out"}
    assert found.kept["u2"].more == {"id": "u2", "gender": "f"} and found.kept["plain"].language == "de"
    assert found.skips == {
        "a shell command in place of a file, which `allow_commands` would run": 2,
        "a segment of a recording that wav.scp lacks": 1,
        "a line of segments that is not `utterance recording start end`": 1,
        "a segment that cuts nothing": 1,
        "a line of text without a recording": 1,
        "a line that is not UTF-8 of text": 1,
        "a line that repeats an id of wav.scp": 1,
        "unreadable": 1,  # u8: an archive without a wav at that byte
        "no transcript": 1,
    }
    assert not (root / "ran").exists()
    assert "cat audio/plain.wav |" in str(found.reasons) and "no wav at this place" in str(found.reasons)


def test_commands_run_only_when_allowed(tmp_path: Path):
    """Guards against a list that runs anything by being read, and against a failed command that stops the run."""
    write_tone(tmp_path / "plain.wav", 8_000, 0.2)
    write_text(tmp_path / "wav.scp", "a touch ran; cat plain.wav |\nb false |\n")
    write_text(tmp_path / "text", "a said\nb not said\n")
    assert found_in(KaldiSource(tmp_path, name="corpus")).kept == {} and not (tmp_path / "ran").exists()
    found = found_in(KaldiSource(tmp_path, name="corpus", allow_commands=True))
    assert found.kept["a"].audio.samples_T.numel() == 1600 and (tmp_path / "ran").exists()
    assert list(found.reasons.values()) == ["unreadable: a command failed (1): false: no output"]


def test_directories_can_be_named(tmp_path: Path):
    """Guards against other data directories beside the wanted one, and a missing list."""
    root = write_directories(tmp_path)
    found = found_in(KaldiSource(root, directories=["data/dev"], name="corpus", require_text=False))
    assert list(found.kept) == ["plain"] and found.kept["plain"].key == "corpus_dev_plain"
    with pytest.raises(FileNotFoundError, match=r"data/test/wav\.scp"):
        found_in(KaldiSource(root, directories=["data/test"]))
    with pytest.raises(ValueError, match=r"to hold wav\.scp"):
        found_in(KaldiSource(root / "audio"))
