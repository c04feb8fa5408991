"""ManifestSource on NeMo's manifests, plain and tarred, and on F5-TTS' csv."""

import json
from pathlib import Path

import pytest

from datamodules.sources.manifest import ManifestSource
from tests.toys.miniatures import found_in, write_text, write_tone
from tests.toys.tar_miniatures import found_inside, members_of, tone, write_tar


def lines(*records: dict | str) -> str:
    return "".join(f"{one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)}\n" for one in records)


def write_nemo(root: Path) -> Path:
    write_tone(root / "lists/wavs/a.wav", 16_000, 0.1)
    write_tone(root / "lists/long.flac", 24_000, 0.3)
    write_tone(root / "lists/wavs/empty.wav", 16_000, 0)
    write_tone(root / "elsewhere/b.wav", 16_000, 0.2)
    train = [
        {"audio_filepath": "wavs/a.wav", "duration": 0.09, "text": "at 5", "normalized_text": "at five", "speaker": 0},
        {
            "audio_filepath": "long.flac",
            "duration": 0.1,
            "offset": 0.05,
            "text": "cut",
            "normalized_text": "",
            "lang": "de",
        },
        {"audio_filepath": "long.flac", "duration": 0.05, "offset": 0.2, "text": "cut again", "speaker": 12},
        {"audio_filepath": "wavs/empty.wav", "duration": 1.5, "text": "A fine line.", "speaker": 1},
        {"audio_filepath": "wavs/gone.wav", "duration": 1.5, "text": "No file.", "speaker": 1},
        {"audio_filepath": "long.flac", "duration": 0.0, "offset": 0.2, "text": "nothing"},
        {"duration": 1.0, "text": "no path"},
        '{"audio_filepath": "wavs/a.wav", ',
    ]
    dev = {
        "audio_filepath": str(root.absolute() / "elsewhere/b.wav"),
        "duration": 0.2,
        "text": "absolute",
        "speaker": 12,
    }
    write_text(root / "lists/train_manifest.json", lines(*train))
    write_text(root / "lists/dev_manifest.json", lines(dev))
    write_text(root / "config.json", "{}")
    return root


def test_nemo_as_published(tmp_path: Path):
    """Guards cuts of a longer file, paths of the manifest's folder, normalised text and where it is empty, speaker 0,
    zero-length audio with a fine line, and splits."""
    found = found_in(ManifestSource(write_nemo(tmp_path / "corpus")))
    texts = {name: one.text for name, one in found.kept.items()}
    assert texts == {
        "lists/wavs/a": "at five",
        "lists/long_0.05_0.15": "cut",
        "lists/long_0.2_0.25": "cut again",
        "elsewhere/b": "absolute",
    }
    assert found.speakers == {"0", "", "12"}
    assert found.hours == pytest.approx((0.1 + 0.1 + 0.05 + 0.2) / 3600)  # a.wav is read whole: its line has no offset
    assert found.kept["lists/long_0.2_0.25"].audio.samples_T.numel() == 1200
    assert {found.splits[name] for name in texts if name.startswith("lists")} == {"train"}
    assert found.splits["elsewhere/b"] == "held_out" and found.kept["lists/long_0.05_0.15"].language == "de"
    reasons = {
        "unreadable": 2,
        "offset and duration cut nothing": 1,
        "a line without `audio_filepath`": 1,
        "not json": 1,
    }
    assert found.skips == reasons
    assert any("no audio samples" in reason for reason in found.reasons.values())
    assert all(one.source == "corpus" for one in found.kept.values())


def test_nemo_tarred(tmp_path: Path):
    """Guards against paths for names of members, against -sub1 as a file of its own, lines of other shards, and NeMo's
    copies of the lines of each shard."""
    write_tar(tmp_path / "audio_0.tar", [("x.flac", tone(0.3)), ("y.wav", tone(0.1, audio_format="WAV"))])
    write_tar(tmp_path / "audio_1.tar", [("z.flac", tone(0.2)), ("alone.flac", tone())])
    records = [
        {"audio_filepath": "x.flac", "duration": 0.1, "offset": 0.0, "text": "first", "shard_id": 0},
        {
            "audio_filepath": "x-sub1.flac",
            "duration": 0.1,
            "offset": 0.2,
            "text": "second",
            "shard_id": 0,
            "speaker": 3,
        },
        {"audio_filepath": "z.flac", "duration": 0.2, "text": "third", "shard_id": 1},
        {"audio_filepath": "y.wav", "duration": 0.1, "text": "fourth", "shard_id": 0},
        {"audio_filepath": "gone.flac", "duration": 0.1, "text": "fifth", "shard_id": 1},
    ]
    write_text(tmp_path / "tarred_audio_manifest.json", lines(*records))
    write_text(tmp_path / "sharded_manifests/manifest_1.json", lines(records[2], records[4]))
    source = ManifestSource(tmp_path, name="nemo")
    found = found_inside(source)
    assert source.num_recordings == 2
    assert sorted(one.text for one in found.kept.values()) == ["first", "fourth", "second", "third"]
    assert found.speakers == {"", "3"} and set(found.splits.values()) == {""}
    assert found.hours == pytest.approx((0.1 + 0.1 + 0.2 + 0.1) / 3600)
    assert found.skips == {"not in its tar": 1, "in the tar, but not in the manifest": 1}
    fresh = ManifestSource(tmp_path, name="nemo")  # another process reads members without listing first
    (item,) = (item for item in source.items() if item.path == "audio_1.tar")
    assert [one.name for one in fresh.members(item)] == [one.name for one in source.members(item)]
    third = members_of(source)["z"]
    offset, size = third.bytes_at
    assert (tmp_path / third.path).read_bytes()[offset : offset + size] == tone(0.2)


F5 = {"files": "*.csv", "audio_field": "audio_file", "text_fields": ["text"]}


def test_f5_tts_with_a_header(tmp_path: Path):
    """Guards the mark of utf-8-sig, `|` and quotes in a text, absolute and relative paths, one of another machine, and
    a line that is not UTF-8."""
    for name in ("a", "b", "c"):
        write_tone(tmp_path / f"wavs/{name}.wav", 24_000)
    rows = [
        "audio_file|text",
        f'{tmp_path}/wavs/a.wav|He said "no',
        "wavs/b.wav|one | two",
        f"{tmp_path}/gone/wavs/c.wav|moved",
        "wavs/d.wav|no file",
        "only a path",
    ]
    write_text(tmp_path / "metadata.csv", b"\xef\xbb\xbf" + "\r\n".join(rows).encode() + b"\r\nwavs/a.wav|caf\xe9\r\n")
    found = found_in(ManifestSource(tmp_path, name="f5", **F5))
    texts = {name: one.text for name, one in found.kept.items()}
    assert texts == {"wavs/a": 'He said "no', "wavs/b": "one | two", "wavs/c": "moved"}
    assert found.hours == pytest.approx(0.3 / 3600) and found.speakers == {""} and set(found.splits.values()) == {""}
    assert found.skips == {
        "unreadable": 1, "a line that is not `audio_file|text`": 1, "a line that is not UTF-8": 1
    }  # fmt: skip


def test_f5_tts_without_a_header(tmp_path: Path):
    """Guards older folders: names without folder and ending, the audio in wavs/."""
    write_tone(tmp_path / "wavs/audio_1.wav", 24_000)
    write_tone(tmp_path / "wavs/audio_2.mp3", 24_000)
    write_text(tmp_path / "metadata.csv", "audio_1|First, with a comma.\naudio_2.mp3|Second.\n")
    with pytest.raises(ValueError, match=r"first line of .*metadata\.csv to name the fields.*`columns`"):
        found_in(ManifestSource(tmp_path, **F5))
    found = found_in(ManifestSource(tmp_path, name="f5", columns=["audio_file", "text"], **F5))
    texts = {name: one.text for name, one in found.kept.items()}
    assert texts == {"wavs/audio_1": "First, with a comma.", "wavs/audio_2": "Second."} and found.skips == {}


def test_a_folder_without_manifests_is_an_error(tmp_path: Path):
    """Guards against empty shards."""
    with pytest.raises(ValueError, match=r"`\*manifest\*\.json\*`.*there is none"):
        ManifestSource(tmp_path).num_recordings  # noqa: B018
    with pytest.raises(FileNotFoundError, match="which is no folder"):
        ManifestSource(tmp_path / "none").num_recordings  # noqa: B018
