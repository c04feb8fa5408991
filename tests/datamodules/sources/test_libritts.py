"""LibriTTSSource and LibriTTSRSource on miniatures of the published layout."""

from pathlib import Path

import pytest

from datamodules.sources.libritts import LibriTTSRSource, LibriTTSSource
from tests.toys.miniatures import found_in, write_text, write_tone

SPEAKERS = """;ID  |SEX| SUBSET           |MINUTES| NAME
14   | F | train-clean-360  | 25.03 | Kristin | LeMoine
84   | F | dev-clean        | 8.02 | Christie Nowak
1092 | M | train-clean-360  | 25.12 | Graham Williams
"""
TEXTS = {
    "dev-clean/84/121123/84_121123_000007_000001": ("Go! do you hear?", "Go! do you hear?"),
    "train-clean-360/14/208/14_208_000004_000000": ("Mr. Bennet, No. 3.", "Mister Bennet, Number three."),
    "train-clean-360/1092/134562/1092_134562_000013_000003": ("“Yes.”", "“Yes.”"),
    "train-clean-360/1092/134562/1092_134562_000013_000004": ("It was.", "It was."),
}


def write_corpus(root: Path, underscores: bool = False) -> Path:
    """Every recording has a line in trans.tsv and two text files beside it; book.tsv has a line more."""
    for place, (original, normalised) in TEXTS.items():
        path = root / (place.replace("-", "_") if underscores else place)
        write_tone(path.with_suffix(".wav"), 24_000)
        write_text(path.with_suffix(".original.txt"), original)
        write_text(path.with_suffix(".normalized.txt"), normalised)
        book = "_".join(path.name.split("_")[:2])
        with (path.parent / f"{book}.trans.tsv").open("a") as stream:
            stream.write(f"{path.name}\t{original}\t{normalised}\n")
        with (path.parent / f"{book}.book.tsv").open("a") as stream:
            stream.write(f"{path.name}\t{original}\t{normalised}\tchapter\t0.1\t31.5\n")
            stream.write(f"{path.name}9\tLeft out.\tLeft out.\tchapter\t0.1\t2\n")
        write_text(path.parent / f"._{path.name}.wav", b"\x00\x05\x16\x07Mac OS X")
    write_text(root / "SPEAKERS.txt", SPEAKERS)
    return root


def test_libritts_as_published(tmp_path: Path):
    """Guards resource forks that pass for recordings, lines of book.tsv without a transcript, names with `|`, the
    official splits and the normalised text."""
    found = found_in(LibriTTSSource(write_corpus(tmp_path / "LibriTTS")))
    assert len(found.kept) == 4 and found.skips == {} and found.hours == pytest.approx(0.4 / 3600)
    assert found.speakers == {"14", "84", "1092"}
    assert sorted(found.splits.values()) == ["held_out", "train", "train", "train"]
    one = found.kept["14_208_000004_000000"]
    assert one.text == "Mister Bennet, Number three." and one.scores == {"snr": 31.5}
    assert one.more == {"id": "14_208_000004_000000", "gender": "F", "original_text": "Mr. Bennet, No. 3."}
    assert one.key == "libritts_train-clean-360_14_208_000004_000000" and one.audio.sample_rate == 24_000


def test_libritts_r_as_published(tmp_path: Path):
    """Guards the damaged file of LibriTTS-R, folders that are named like archives, and ids that both corpora have."""
    root = write_corpus(tmp_path / "LibriTTS_R", underscores=True)
    damaged = root / "train_clean_360/1092/134562/1092_134562_000013_000004.wav"
    damaged.write_bytes(damaged.read_bytes()[:20])
    trans = root / "dev_clean/84/121123/84_121123.trans.tsv"
    trans.write_bytes(trans.read_bytes() + b"84_121123_000007_000002\tCaf\xe9\tCaf\xe9\n")
    write_tone(trans.parent / "84_121123_000007_000002.wav", 24_000)
    source = LibriTTSRSource(root, subsets=["dev-clean", "train_clean_360"])
    found = found_in(source)
    assert found.skips == {"unreadable": 1, "the text is not UTF-8": 1} and len(found.kept) == 3
    assert "libritts_r_train-clean-360_1092_134562_000013_000004" in found.reasons
    assert found.splits["84_121123_000007_000001"] == "held_out"
    others = {item.key for item in LibriTTSSource(write_corpus(tmp_path / "LibriTTS")).recordings()}
    assert not others & {one.key for one in found.kept.values()}
    assert source.credits() == "libritts_r, LibriTTS_R. Licence: CC BY 4.0."
