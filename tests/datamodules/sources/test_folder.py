"""FolderSource: LJSpeech's layout and pairs of files."""

import numpy as np
import pytest
import soundfile
import torch

from datamodules.sources.folder import FolderSource
from datamodules.sources.source import Recording, Skipped


def sine(num_samples: int, frequency: float = 440.0) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * frequency * np.arange(num_samples) / 16_000)).astype(np.float32)


def by_key(items) -> dict[str, Recording | Skipped]:
    listed = list(items)
    keyed = {item.key: item for item in listed}
    assert len(keyed) == len(listed), "keys are not unique"
    return keyed


def write_ljspeech(tmp_path):
    wavs = tmp_path / "wavs"
    wavs.mkdir()
    stereo = np.stack([sine(4410), np.zeros(4410, np.float32)], axis=1)
    soundfile.write(wavs / "LJ-1.wav", stereo, 44_100, subtype="FLOAT")
    soundfile.write(wavs / "LJ-2.flac", sine(800), 8_000)
    for name in ("LJ-3", "LJ-7", "loud"):
        soundfile.write(wavs / f"{name}.wav", sine(1600) * (9000 if name == "loud" else 1), 16_000, subtype="FLOAT")
    soundfile.write(wavs / "none.wav", sine(0), 16_000)
    (wavs / "bad.wav").write_bytes(b"RIFF, but no sound")
    (wavs / "._LJ-1.wav").write_bytes(b"resource fork")
    lines = ["LJ-1|Dr. X|Doctor  X", 'LJ-2.flac|He said "no|', "LJ-3||", "gone|text|text", "bad|text", "LJ-2|again"]
    lines += ["only-an-id", "none|text", "loud|text", "../../etc/passwd|text"]
    (tmp_path / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode() + b"\nLJ-8|caf\xe9\n")


def test_ljspeech_layout(tmp_path):
    """Guards the normalised column, mixing, native rates and formats; every bad line is counted, none stops the run."""
    write_ljspeech(tmp_path)
    source = FolderSource(tmp_path, speaker="lj", license="public domain")
    items = by_key(source.recordings())
    assert source.num_recordings == len(items) == 12
    kept = {key: item for key, item in items.items() if isinstance(item, Recording)}
    assert {key: item.text for key, item in kept.items()} == {"LJ-1": "Doctor X", "LJ-2": 'He said "no'}
    assert torch.allclose(kept["LJ-1"].audio.samples_T, torch.from_numpy(sine(4410)) / 2)
    assert kept["LJ-1"].audio.sample_rate == 44_100 and kept["LJ-2"].audio.sample_rate == 8_000
    reasons = {item.reason.split(":")[0] for item in items.values() if isinstance(item, Skipped)}
    assert reasons >= {
        "no transcript",
        "no audio file for this line of metadata.csv",
        "a line of metadata.csv that repeats an id",
        "a line of metadata.csv that is not `id|text`",
        "a line of metadata.csv that is not UTF-8",
        "not in metadata.csv",
        "unreadable",
    }
    assert items["none"].reason == "unreadable: no audio samples" and "peaks at 3600" in items["loud"].reason
    assert items["LJ-8"].reason == "a line of metadata.csv that is not UTF-8: line 11"
    texts = {
        item.text for item in FolderSource(tmp_path, require_text=False).recordings() if isinstance(item, Recording)
    }
    assert texts == {"Doctor X", 'He said "no', ""}


def test_pairs_at_any_depth(tmp_path):
    """Guards recursion, other formats, two audio files of one name, and audio only if no text is required."""
    (tmp_path / "deep/er").mkdir(parents=True)
    for name in ("x.wav", "x.flac", "deep/y.ogg", "deep/er/z.wav", "alone.wav", "empty.wav"):
        soundfile.write(tmp_path / name, sine(3200), 16_000)
    for name, text in {"x": "first\n", "deep/y": " second  line ", "deep/er/z": "third", "empty": " \n"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "README.txt").write_text("no transcript of anything")
    items = by_key(FolderSource(tmp_path).recordings())
    texts = {key: item.text for key, item in items.items() if isinstance(item, Recording)}
    assert sorted(texts.values()) == ["first", "second line", "third"] and len(items) == 6
    assert {"deep_y", "deep_er_z"} < texts.keys()
    assert items["alone"].reason == items["empty"].reason == "no transcript"
    without = by_key(FolderSource(tmp_path, require_text=False).recordings())
    assert without["alone"].text == "" and without["deep_y"].text == "second line"


def test_unusable_folders_raise_an_error_with_the_expected_layout(tmp_path):
    """An empty corpus must not prepare into empty shards."""
    with pytest.raises(FileNotFoundError, match=r"`metadata\.csv`.*which is no folder"):
        list(FolderSource(tmp_path / "missing").recordings())
    with pytest.raises(ValueError, match=r"`x\.wav` and `x\.txt`.*no audio was found"):
        list(FolderSource(tmp_path).recordings())
    soundfile.write(tmp_path / "a.wav", sine(1600), 16_000)
    with pytest.raises(ValueError, match=r"no audio file has a transcript.*`require_text`"):
        list(FolderSource(tmp_path).recordings())
    assert FolderSource(tmp_path, require_text=False).num_recordings == 1


# ------------------------------------------------------------------------------------------- speakers and third columns


def write_listed(folder, rows, separator="|"):
    """Write `metadata.csv` of these rows and a recording for each first cell that names one."""
    (folder / "wavs").mkdir(parents=True)
    for number in range(len(rows)):
        soundfile.write(folder / f"wavs/{number:02d}.wav", sine(1600), 16_000)
    (folder / "metadata.csv").write_text("\n".join(separator.join(row) for row in rows))
    return folder


def spoken(source) -> dict[str, tuple[str, str, str]]:
    return {item.key: (item.text, item.speaker, item.language) for item in source.recordings()}


def test_speakers_from_folders(tmp_path):
    """Guards against every speaker's recordings under one name, in both layouts."""
    for name in ("ann/1", "ann/book/2", "bob/1", "3"):
        path = tmp_path / f"pairs/{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sine(1600), 16_000)
        path.with_suffix(".txt").write_text(f"text {name}")
    items = by_key(FolderSource(tmp_path / "pairs", speaker="from_folder").recordings())
    speakers = {key: item.speaker for key, item in items.items() if isinstance(item, Recording)}
    assert speakers == {"ann_1": "ann", "ann_book_2": "ann", "bob_1": "bob"}
    assert items["3"].reason == "no speaker: the file is in no folder of its own"
    listed = tmp_path / "listed"
    for name in ("ann", "bob"):
        (listed / f"wavs/{name}").mkdir(parents=True)
        soundfile.write(listed / f"wavs/{name}/1.wav", sine(1600), 16_000)
    (listed / "metadata.csv").write_text("ann/1|one\nbob/1|two")
    found = spoken(FolderSource(listed, speaker="from_folder"))
    assert found == {"ann_1": ("one", "ann", "en"), "bob_1": ("two", "bob", "en")}


@pytest.mark.parametrize(
    ("thirds", "why"),
    [
        (["male", "female"] * 5, "repeats beside different texts, such as 'male' and 'female'"),
        ([f"{number}.61" for number in range(10)], "is numeric, such as '0.61' and '1.61'"),
        (["ann", "bob"] + [f"guest{number}" for number in range(6)] + ["ann", ""], "repeats beside different texts"),
        ([f"text number {number}" for number in range(8)] + ["4.6", "5.2"], "is numeric"),
    ],
)
def test_a_third_column_that_is_no_text_is_refused(tmp_path, thirds, why):
    """Guards against a corpus trained on "male" or "4.61" as the text of every recording."""
    rows = [[f"{number:02d}", f"text number {number}", third] for number, third in enumerate(thirds)]
    folder = write_listed(tmp_path / "corpus", rows)
    with pytest.raises(ValueError, match=rf"{why}.*`columns`.*\[id, text, speaker\], \[id, text, duration\]"):
        FolderSource(folder).num_recordings  # noqa: B018
    found = spoken(FolderSource(folder, columns=["id", "text", "speaker"]))
    assert found == {name: (text, third, "en") for name, text, third in rows}
    assert {
        speaker for _, speaker, _ in spoken(FolderSource(folder, "me", columns=["id", "text", "duration"])).values()
    } == {"me"}
    as_text = spoken(FolderSource(folder, columns=["id", "text", "normalised_text"]))
    assert as_text == {name: (third or text, "", "en") for name, text, third in rows}


def test_normalised_texts_are_no_speakers(tmp_path):
    """Guards against rejecting LJSpeech's own layout: texts that repeat, are digits, or have the same normalised
    text."""
    texts = [("Yes.", "Yes."), ("yes", "yes"), ("Yes!", "Yes."), ("42", "42"), ("7", "7"), ("Dr. X", "Doctor X")]
    texts += [("Doctor X", "Doctor X")] + [(f"Mr. {n}", f"Mister {n}") for n in range(10)]
    rows = [[f"{number:02d}", *pair] for number, pair in enumerate(texts)]
    found = spoken(FolderSource(write_listed(tmp_path / "corpus", rows)))
    assert [text for text, _, _ in found.values()] == [normalised for _, normalised in texts]


def test_columns_in_any_order(tmp_path):
    """Guards against columns interpreted by position; a wrong setting raises an error before anything is read."""
    folder = write_listed(tmp_path / "corpus", [["fr", "x", "ann", "00", "bonjour"], ["de", "x", "", "01", ""]])
    columns = ["language", "ignored", "speaker", "id", "text"]
    items = by_key(FolderSource(folder, columns=columns).recordings())
    assert (items["00"].text, items["00"].speaker, items["00"].language) == ("bonjour", "ann", "fr")
    assert items["01"].reason == "no transcript"
    for wrong in (["text"], ["id", "speaker"], ["id", "text", "text"]):
        with pytest.raises(ValueError, match="id and text, each once"):
            FolderSource(folder, columns=wrong)
    with pytest.raises(ValueError, match="or a column of speakers"):
        FolderSource(folder, "me", columns=columns)
    with pytest.raises(ValueError, match=r"`metadata\.csv` for `columns`"):
        FolderSource(folder / "wavs", columns=columns).num_recordings  # noqa: B018
    with pytest.raises(ValueError, match=r"`name` to hold letters.*'a b'"):
        FolderSource(folder, name="a b")
