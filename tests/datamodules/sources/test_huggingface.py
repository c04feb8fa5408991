"""ParquetSource and AudioFolderSource on what `datasets` writes and reads."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from datamodules.sources.huggingface import AudioFolderSource, ParquetSource
from datamodules.sources.official_splits import KEYWORDS, official_splits
from tests.toys.miniatures import found_in, write_text, write_tone
from tests.toys.tar_miniatures import found_inside, tone


def write_parquet(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two configurations, each with its splits, written by `datasets`, which declares 24 kHz for audio at 16 kHz."""
    from datasets import Audio, ClassLabel, Dataset, Features, Value

    write_tone(root / "en/clips/beside.wav", 8_000, 0.2)
    gone = root / "of another machine.wav"
    write_tone(gone, 8_000)
    monkeypatch.chdir(root / "en")  # where `datasets` asks for the size of clips/beside.wav
    audio = [
        {"bytes": tone(0.1), "path": "a.flac"},
        {"bytes": tone(0.2), "path": None},
        {"bytes": None, "path": "clips/beside.wav"},
        {"bytes": tone(0.1, 24_000, "MP3"), "path": str(gone)},
        {"bytes": None, "path": str(gone)},
        {"bytes": b"no audio", "path": "b.flac"},
        None,
        {"bytes": tone(), "path": "c.flac"},
    ]
    columns = {
        "audio": audio,
        "sentence": ["one", "two ", "three", "four", "five", "six", "seven", None],
        "speaker": [1, 0, 1, -1, 0, 0, 0, 0],
        "locale": ["en"] * 8,
        "snr": [10.5, None, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    }
    features = Features(
        {
            "audio": {"bytes": Value("binary"), "path": Value("string")},  # encoding needs torchcodec, a cast does not
            "sentence": Value("string"),
            "speaker": ClassLabel(names=["ann", "bob"]),
            "locale": Value("string"),
            "snr": Value("float32"),
        }
    )
    first = Dataset.from_dict(columns, features=features).cast_column("audio", Audio(24_000, decode=False))
    (root / "de").mkdir()
    first.to_parquet(root / "en/train-00000-of-00001.parquet")
    first.select([0]).to_parquet(root / "en/validation-00000-of-00001.parquet")
    first.select([1]).to_parquet(root / "de/test-00000-of-00001.parquet")
    gone.unlink()
    monkeypatch.chdir(root.parent)
    return root


def test_parquet_as_datasets_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Guards names of class labels, audio without bytes or path, paths of another machine, the rate that the schema
    declares, splits of file names, and rows of one number in two files."""
    names = {"text_column": "sentence", "speaker_column": "speaker", "language_column": "locale"}
    root = write_parquet(tmp_path / "corpus", monkeypatch)
    source = ParquetSource(root, score_columns=["snr"], **names)
    found = found_inside(source)
    stem = "train-00000-of-00001_00000"
    texts = {name: one.text for name, one in found.kept.items()}
    assert texts == {
        f"{stem}0": "one", f"{stem}1": "two", f"{stem}2": "three", f"{stem}3": "four",
        "validation-00000-of-00001_000000": "one", "test-00000-of-00001_000000": "two",
    }  # fmt: skip
    assert [found.kept[f"{stem}{row}"].speaker for row in range(4)] == ["bob", "ann", "bob", ""]
    assert [found.kept[f"{stem}{row}"].audio.sample_rate for row in range(4)] == [16_000, 16_000, 8_000, 24_000]
    assert found.hours == pytest.approx((0.1 + 0.2 + 0.2 + 0.1 + 0.1 + 0.2) / 3600, rel=1e-3)
    assert set(found.splits.values()) == {"train", "held_out", "test"}
    assert found.splits["validation-00000-of-00001_000000"] == "held_out"
    assert found.kept[f"{stem}0"].scores == {"snr": 10.5} and found.kept[f"{stem}1"].scores == {}
    assert found.kept[f"{stem}0"].language == "en" and found.kept[f"{stem}0"].key == f"corpus_en_{stem}0"
    assert found.skips == {
        "no bytes, and no file at its path": 1, "unreadable": 1, "no audio": 1, "no transcript": 1
    }  # fmt: skip
    of_german = ParquetSource(root, files="de/*", **names)
    assert source.num_recordings == 3 and [item.path for item in of_german.items()] == [
        "de/test-00000-of-00001.parquet"
    ]


def test_columns_are_checked(tmp_path: Path):
    """Guards against a corpus without text because its column has another name, ids of a column, and audio as plain
    bytes from writers that know no struct."""
    table = pyarrow.table({"audio": [tone(), tone()], "text": ["one", "two"], "utterance": ["x.1", 7 and "x.2"]})
    pyarrow.parquet.write_table(table, tmp_path / "part.parquet")
    with pytest.raises(ValueError, match=r"part\.parquet to have columns sentence, but it has audio, text, utterance"):
        ParquetSource(tmp_path, text_column="sentence").num_recordings  # noqa: B018
    found = found_inside(ParquetSource(tmp_path, name="x", id_column="utterance"))
    assert {name: one.text for name, one in found.kept.items()} == {"x.1": "one", "x.2": "two"}
    with pytest.raises(ValueError, match=r"parquet files at `\*/train\*`.*there is none"):
        ParquetSource(tmp_path, files="*/train*").num_recordings  # noqa: B018


def test_a_damaged_parquet_file_is_one_skip(tmp_path: Path):
    """Guards against a broken download that stops the run."""
    pyarrow.parquet.write_table(pyarrow.table({"audio": [tone()], "text": ["one"]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    found = found_inside(ParquetSource(tmp_path, name="x"))
    assert len(found.kept) == 1 and found.skips == {"a damaged file of many recordings": 1}


def write_audio_folder(root: Path, kind: str) -> Path:
    """train/ and test/ with metadata of their own; texts hold commas, quotes and line breaks."""
    rows = {
        "train": [
            ("a.wav", 'He said "yes", twice', "0"),
            ("sub/test_b.mp3", "two\nlines", "1"),
            ("gone.wav", "x", "1"),
        ],
        "validation": [("c.wav", "three", "0")],
    }
    for split, listed in rows.items():
        for name, *_ in listed:
            if name != "gone.wav":
                write_tone(root / split / name, 24_000)
        records = [{"file_name": name, "transcription": text, "speaker": speaker} for name, text, speaker in listed]
        if kind == "parquet":
            from datasets import Dataset

            Dataset.from_list(records).to_parquet(root / split / "metadata.parquet")
        elif kind == "jsonl":
            text = "".join(f"{json.dumps(one)}\n" for one in records)
            write_text(root / split / "metadata.jsonl", text)
        else:
            import pandas

            pandas.DataFrame(records).to_csv(root / split / "metadata.csv", index=False)
    write_tone(root / "train/alone.wav", 24_000)
    return root


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_audio_folder(tmp_path: Path, kind: str):
    """Guards quotes of csv, subfolders that are splits while names of files are not, and files without a line."""
    found = found_in(AudioFolderSource(write_audio_folder(tmp_path, kind), name="x", speaker_field="speaker"))
    texts = {name: one.text for name, one in found.kept.items()}
    assert texts == {"train/a": 'He said "yes", twice', "train/sub/test_b": "two lines", "validation/c": "three"}
    assert found.speakers == {"0", "1"} and found.hours == pytest.approx(0.3 / 3600, rel=1e-3)
    assert found.splits == {"train/a": "train", "train/sub/test_b": "train", "validation/c": "held_out"}
    assert found.skips == {"no audio file of this name": 1, "not in the metadata": 1}
    with pytest.raises(ValueError, match=r"to have fields text, but it has file_name, transcription, speaker"):
        list(AudioFolderSource(tmp_path, text_field="text").items())


def test_one_list_for_all_splits(tmp_path: Path):
    """Guards paths of a list at the root, a line that is not UTF-8, and train alone: part of it must be held out."""
    for name in ("train/a.wav", "train/b.wav"):
        write_tone(tmp_path / name, 16_000)
    write_text(tmp_path / "metadata.csv", b"file_name,transcription\ntrain/a.wav,one\ntrain/b.wav,caf\xe9\n")
    found = found_in(AudioFolderSource(tmp_path, name="x"))
    assert found.splits == {"train/a": ""} and found.skips == {"the text is not UTF-8": 1}


def test_words_of_splits_are_those_of_datasets():
    """Guards against another reading of names than the library's whose layout it is."""
    from datasets.data_files import SPLIT_KEYWORDS

    ours = {"train": "train", "validation": "held_out", "test": "test"}
    assert {ours[str(split)]: tuple(words) for split, words in SPLIT_KEYWORDS.items()} == KEYWORDS
    names = [
        "data/train-00000-of-00002.parquet",
        "dev/wav.scp",
        "libri_cuts_test-clean.jsonl.gz",
        "latest/contrained.tar",
    ]
    assert list(official_splits(names).values()) == ["train", "held_out", "test", ""]
    assert official_splits(["train.tar", "test.tar"]) == {"train.tar": "", "test.tar": "test"}
