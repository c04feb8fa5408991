"""VCTKSource on miniatures of versions 0.92 and 0.80."""

from pathlib import Path

import pytest

from datamodules.sources.vctk import VCTKSource
from tests.toys.miniatures import found_in, write_text, write_tone

SHARED = "Please call Stella.\n"
INFO = """ID  AGE  GENDER  ACCENTS  REGION COMMENTS
p225  23  F    English    Southern  England
p280  25  F    French  (mic2 files unavailable)
p315  18  M    American
s5  18  M    English
"""


def write_corpus(tmp_path: Path) -> Path:
    root = tmp_path / "VCTK-Corpus-0.92"
    for name in ("p225_001_mic1", "p225_001_mic2", "p280_001_mic1", "p315_001_mic1", "p315_001_mic2", "s5_001_mic1"):
        speaker = name.partition("_")[0]
        write_tone(root / f"wav48_silence_trimmed/{speaker}/{name}.flac", 48_000)
    for name in ("p225_001", "p280_001", "p362_001", "s5_001"):
        write_text(root / f"txt/{name.partition('_')[0]}/{name}.txt", SHARED)
    write_text(root / "wav48_silence_trimmed/log.txt", "p225_001_mic1.flac 0.1\n")
    write_text(root / "speaker-info.txt", INFO)
    return root


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path)


def test_vctk_0_92_as_published(corpus: Path):
    """Guards against each sentence twice, speakers without texts or audio, one speaker that is no `p`, and regions that
    are empty or long."""
    found = found_in(VCTKSource(corpus))
    assert found.splits == {"p225_001": "", "p280_001": "", "s5_001": ""}
    assert found.speakers == {"p225", "p280", "s5"} and found.hours == pytest.approx(0.3 / 3600)
    assert found.skips == {"no transcript": 1, "no audio file for this text": 1}
    one = found.kept["p225_001"]
    assert one.text == "Please call Stella." and one.license == "CC BY 4.0" and one.key == "vctk_p225_001"
    facts = {"age": "23", "gender": "F", "accent": "English"}
    assert one.more == {"id": "p225_001", "microphone": "mic1", **facts} and one.audio.sample_rate == 48_000
    assert found.kept["s5_001"].more["gender"] == "M"


def test_the_other_microphone_of_vctk(corpus: Path):
    """Guards against mic1 in place of a mic2 that is missing: two microphones in one voice."""
    found = found_in(VCTKSource(corpus, mic="mic2", require_text=False))
    assert found.splits == {"p225_001": "", "p315_001": ""}
    assert found.skips == {"no recording of mic2": 2, "no audio file for this text": 1}


def test_vctk_0_80_as_published(tmp_path: Path):
    """Guards ids without `p` in speaker-info.txt, and the licence of 0.92 on a version that states its own."""
    write_tone(tmp_path / "wav48/p225/p225_001.wav", 48_000)
    write_text(tmp_path / "txt/p225/p225_001.txt", SHARED)
    write_text(tmp_path / "speaker-info.txt", "ID  AGE  GENDER  ACCENTS  REGION\n225  23  F    English    Southern\n")
    one = found_in(VCTKSource(tmp_path)).kept["p225_001"]
    assert one.more == {"id": "p225_001", "age": "23", "gender": "F", "accent": "English"}
    assert one.license == "unknown" and "Licence: unknown" in VCTKSource(tmp_path).credits()
    assert found_in(VCTKSource(tmp_path, license="mine")).kept["p225_001"].license == "mine"
    with pytest.raises(ValueError, match="wav48_silence_trimmed"):
        list(VCTKSource(tmp_path / "txt").items())
