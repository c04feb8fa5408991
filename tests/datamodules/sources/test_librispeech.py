"""LibriSpeechSource on a miniature of the published layout."""

from pathlib import Path

import pytest

from datamodules.sources.librispeech import LibriSpeechSource
from tests.toys.miniatures import found_in, write_text, write_tone

SPEAKERS = """; Some pipe-separated information about all the readers
;ID  |SEX| SUBSET           |MINUTES| NAME
84   | F | dev-clean        | 8.02 | Christie Nowak
103  | F | train-clean-100  | 25.16 | Karen | Savage
1089 | M | test-clean       | 8.13 | Peter Bobbe
"""


def write_corpus(tmp_path: Path) -> Path:
    root = tmp_path / "LibriSpeech"
    texts = {
        "dev-clean": ["84-121123-0000 GO DO YOU HEAR", "84-121123-0001 BUT IN LESS THAN FIVE MINUTES"],
        "train-clean-100": ["103-1240-0000 CHAPTER ONE", "103-1240-0001 THAT HAD ITS SOURCE", "103-1240-0002 GONE"],
        "test-clean": ["1089-134686-0000 HE HOPED THERE'D BE STEW"],
    }
    for subset, lines in texts.items():
        speaker, chapter, _ = lines[0].partition(" ")[0].split("-")
        folder = root / subset / speaker / chapter
        for line in lines:
            name = line.partition(" ")[0]
            if "GONE" not in line:
                write_tone(folder / f"{name}.flac", 16_000)
        write_text(folder / f"{speaker}-{chapter}.trans.txt", "\n".join(lines) + "\n")
    write_tone(root / "train-clean-100/103/1240/103-1240-0003.flac", 16_000)  # no line
    write_text(root / "train-clean-100/103/1240/103-1240-0001.flac", b"fLaC, but cut")
    write_text(root / "SPEAKERS.TXT", SPEAKERS)
    return root


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path)


def test_librispeech_as_published(corpus: Path):
    """Guards the official splits, capitals that are marked, and lines and files that have no counterpart."""
    found = found_in(LibriSpeechSource(corpus))
    assert found.splits == {
        "84-121123-0000": "held_out",
        "84-121123-0001": "held_out",
        "103-1240-0000": "train",
        "1089-134686-0000": "test",
    }
    assert found.speakers == {"84", "103", "1089"} and found.hours == pytest.approx(0.4 / 3600)
    assert found.skips == {
        "unreadable": 1,
        "no audio file for this line of the transcripts": 1,
        "not in the transcripts": 1,
    }
    one = found.kept["1089-134686-0000"]
    assert one.text == "HE HOPED THERE'D BE STEW"
    assert one.more == {"id": "1089-134686-0000", "gender": "M", "text_style": "upper"}
    assert one.key == "librispeech_test-clean_1089-134686-0000"
    assert (one.language, one.license, one.source) == ("en", "CC BY 4.0", "librispeech")


def test_subsets_of_librispeech(corpus: Path):
    """Guards against a part without dev that has nothing to hold out, and a misspelt subset that is passed over."""
    part = LibriSpeechSource(corpus, subsets=["train-clean-100"], require_text=False)
    assert found_in(part).splits == {"103-1240-0000": "", "103-1240-0003": ""}
    with pytest.raises(FileNotFoundError, match="to hold the subsets train-clean-360, but got dev-clean, test-clean"):
        list(LibriSpeechSource(corpus, subsets=["train-clean-360"]).items())
    with pytest.raises(ValueError, match="train-clean-100"):
        list(LibriSpeechSource(corpus / "dev-clean").items())
