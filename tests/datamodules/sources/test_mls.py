"""MLSSource on miniatures of both published layouts."""

from pathlib import Path

import pytest

from datamodules.sources.mls import MLSSource
from tests.toys.miniatures import found_in, write_text, write_tone

METAINFO = """ SPEAKER   |   GENDER   | PARTITION  |  MINUTES   |  BOOK ID   |  TITLE  |  CHAPTER
  6892     |     F      |   train    |  16.5  |  10000  |  Anielka | Tom pierwszy | I
  8758     |     M      |    dev     |  20.0  |  10001  |  Lalka  | I
"""
LINES = {
    "train": "6892_10000_000000\tczytelnik zna już\n6892_10000_000001\tniestety zginął\nnic\n",
    "dev": "8758_10001_000000\tdwudziesty drugi maja\n",
    "test": "8758_10002_000000\tw tej książce\n",
}


def write_language(root: Path, suffix: str, sample_rate: int, **how: str) -> None:
    for split, lines in LINES.items():
        write_text(root / split / "transcripts.txt", lines)
        write_text(root / split / "segments.txt", "6892_10000_000000\thttp://www.archive.org/x.mp3\t1.0\t1.1\n")
        for name in (line.partition("\t")[0] for line in lines.splitlines()):
            if name.count("_") == 2 and name != "6892_10000_000001":  # which is missing
                speaker, book, _ = name.split("_")
                write_tone(root / split / f"audio/{speaker}/{book}/{name}{suffix}", sample_rate, **how)
    write_text(root / "train/limited_supervision/9hr/handles.txt", "6892_10000_000000\n")
    write_text(root / "train/limited_supervision/9hr/transcripts.txt", "6892_10000_000000\tczytelnik zna już\n")
    write_text(root / "metainfo.txt", METAINFO)


def write_corpus(tmp_path: Path) -> Path:
    write_language(tmp_path / "mls_polish_opus", ".opus", 48_000, format="OGG", subtype="OPUS")
    write_text(tmp_path / "mls_lm_polish/data.txt", "texts alone\n")
    return tmp_path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path)


def test_mls_in_opus_as_published(corpus: Path):
    """Guards Opus at another rate than the corpus', ids that stand again in a selection of train, folders without
    audio, speakers between spaces, and lines that are bad or have no file."""
    found = found_in(MLSSource(corpus))
    assert found.splits == {"6892_10000_000000": "train", "8758_10001_000000": "held_out", "8758_10002_000000": "test"}
    assert found.speakers == {"6892", "8758"} and found.hours == pytest.approx(0.3 / 3600)
    assert {one.audio.sample_rate for one in found.kept.values()} == {16_000}
    assert found.skips == {"a line of transcripts.txt that is not `id<TAB>text`": 1, "unreadable": 1}
    one = found.kept["8758_10001_000000"]
    assert one.text == "dwudziesty drugi maja" and one.language == "pl" and one.license == "CC BY 4.0"
    assert one.more == {"id": "8758_10001_000000", "gender": "M", "text_style": "lower"}
    assert one.key == "mls_pl_dev_8758_10001_000000"


def test_a_language_in_two_formats_is_read_once(corpus: Path):
    """Guards against the same recordings twice, and against parts that are passed over if they are absent."""
    write_language(corpus / "mls_polish", ".flac", 16_000)
    source = MLSSource(corpus, languages=["pl"], subsets=["train"])
    assert found_in(source).splits == {"6892_10000_000000": ""}  # no dev: part of train is held out
    assert next(item.path for item in source.items()) == "mls_polish/train/audio/6892/10000/6892_10000_000000.flac"
    with pytest.raises(FileNotFoundError, match=r"mls_polish \(de\), but got .* with pl"):
        list(MLSSource(corpus, languages=["de"]).items())
