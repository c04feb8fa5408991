"""WebDatasetSource on tars of others, and the reader of tars below it."""

import io
import json
from pathlib import Path

import pytest
import webdataset

from datamodules.sources.source import Recording, Skipped
from datamodules.sources.tar_members import tar_members
from datamodules.sources.webdataset_tars import WebDatasetSource
from tests.toys.tar_miniatures import found_inside, members_of, tone, write_tar

LONG = "long/" + "x" * 120  # a name that does not fit a plain header


def write_tars(root: Path) -> Path:
    """Members in any order, in folders; json, txt or both; two tars with one key; tars of a train and a dev split."""
    files = [
        ("./", b""),
        (
            "./000.json",
            json.dumps({"transcript": " from json ", "who": 7, "licence": "CC0", "snr": 20.5, "dnsmos": None}),
        ),
        ("./000.flac", tone(0.1)),
        ("./._000.flac", b"resource fork"),
        (f"{LONG}.mp3", tone(0.2, 24_000, "MP3")),
        (f"{LONG}.txt", "from txt\n"),
        ("two.mic2.wav", tone(0.2, audio_format="WAV")),
        ("two.txt", "two microphones"),
        ("two.mic1.wav", tone(0.1, audio_format="WAV")),
        ("no_audio.json", "{}"),
        ("bad.flac", tone()),
        ("bad.json", "{not json"),
        ("no_text.wav", tone(audio_format="WAV")),
        ("no_text.json", json.dumps({"transcript": ["one", "of several"]})),
    ]
    write_tar(root / "train-000.tar", files)
    write_tar(root / "dev/000.tar", [("000.txt", "of dev"), ("000.flac", tone(0.3))])
    write_tar(root / "other.tar", [("x.txt", "x"), ("x.flac", tone())])
    return root


def source_of(root: Path, **more) -> WebDatasetSource:
    names = {"text_field": "transcript", "speaker_field": "who", "license_field": "licence"}
    return WebDatasetSource(root, name="web", files="*00*", score_fields=["snr", "dnsmos"], **names, **more)


def test_webdataset_as_published(tmp_path: Path):
    """Guards the order of a sample's files, json and txt, named fields, keys that two tars share, long names, folders,
    two microphones, splits and a pattern of files."""
    items = list(source_of(write_tars(tmp_path), language="en").recordings())
    by_key = {one.key: one for one in items if isinstance(one, Recording)}
    reasons = sorted(one.reason.partition(":")[0] for one in items if isinstance(one, Skipped))
    assert reasons == ["no audio file of this name in the tar", "no transcript", "not json"]
    texts = sorted(one.text for one in by_key.values())
    assert texts == ["from json", "from txt", "of dev", "two microphones"] and len(items) == 7
    one = by_key["web_train-000_000"]
    assert (one.speaker, one.license, one.scores, one.language) == ("7", "CC0", {"snr": 20.5}, "en")
    assert one.split == "train" and by_key["web_dev_000_000"].split == "held_out"
    assert {one.speaker for one in by_key.values()} == {"7", ""}
    seconds = [one.audio.samples_T.numel() / one.audio.sample_rate for one in by_key.values()]
    assert sorted(seconds) == pytest.approx([0.1, 0.1, 0.2, 0.3], rel=1e-3)
    assert by_key["web_train-000_two"].audio.samples_T.numel() == 1600  # the first microphone
    assert by_key["web_dev_000_000"].license == "unknown"


def test_members_lie_where_they_are_said_to(tmp_path: Path):
    """Guards offsets that the index of tars left in place would hold, against webdataset's own reading."""
    source = source_of(write_tars(tmp_path))
    assert source.in_place
    for name in ("train-000.tar", "dev/000.tar"):
        reference = {
            one["__key__"].removeprefix("./"): one
            for one in webdataset.WebDataset(str(tmp_path / name), shardshuffle=False, nodesplitter=None)
        }
        (tar,) = (item for item in source.items() if item.path == name)
        members = {member.name: member for member in source.members(tar) if member.bytes_at}
        assert len(members) == (5 if "train" in name else 1)
        for key, member in members.items():
            offset, size = member.bytes_at
            content = (tmp_path / name).read_bytes()[offset : offset + size]
            audio = [
                value for ending, value in reference[key].items() if ending.endswith(("flac", "mp3", "mic1.wav", "wav"))
            ]
            assert content in audio and not member.content


def test_compressed_tars_are_refused_in_place_and_read_otherwise(tmp_path: Path):
    """Guards against offsets into a gzip stream, by first bytes and not by name."""
    write_tar(tmp_path / "a.tar.gz", [("x.flac", tone()), ("x.txt", "zipped")], "w:gz")
    write_tar(tmp_path / "b.tar", [("y.txt", "zipped too"), ("y.flac", tone())], "w:gz")
    write_tar(tmp_path / "c.tar", [("z.txt", "plain"), ("z.flac", tone())])
    with pytest.raises(ValueError, match=r"without compression for `in_place`, but got .*a\.tar\.gz \(2 of 3 files\)"):
        list(WebDatasetSource(tmp_path).items())
    source = WebDatasetSource(tmp_path, in_place=False)
    found = found_inside(source)
    assert sorted(one.text for one in found.kept.values()) == ["plain", "zipped", "zipped too"]
    members = members_of(source)
    assert members["x"].content == tone() and members["x"].bytes_at is None
    assert members["z"].bytes_at and not members["z"].content


def test_damaged_tars_keep_what_precedes_the_damage(tmp_path: Path):
    """Guards against a tar that a broken download cut and that passes for a whole one, and a bad header."""
    files = [
        (f"{number}.{ending}", content) for number in range(3) for ending, content in (("flac", tone()), ("txt", "x"))
    ]
    write_tar(tmp_path / "whole.tar", files)
    whole = (tmp_path / "whole.tar").read_bytes()
    (*_, last) = tar_members([tmp_path / "whole.tar"], lambda name: False)
    start = last.bytes_at[0] - 512
    damaged = {
        "cut": whole[: start - 700],
        "ends": whole[:start],
        "header": whole[:start] + b"\xff" * 512 + whole[start + 512 :],
        "empty": b"",
    }
    for name, content in damaged.items():
        (tmp_path / f"{name}.tar").write_bytes(content)
    (tmp_path / "zipped.tar").write_bytes(_gzip(whole)[:-400])
    for name, num_kept in (("whole", 3), ("cut", 2), ("ends", 2), ("header", 2), ("zipped", 0), ("empty", 0)):
        found = found_inside(WebDatasetSource(tmp_path, files=f"{name}.tar", name="web", in_place=False))
        assert len(found.kept) == num_kept, (name, found)
        damage = found.skips.pop("a damaged file of many recordings", 0)
        assert damage == (name != "whole"), (name, found)
    with pytest.raises(ValueError, match=r"tar files of audio .* none at `\*\.zip`"):
        list(WebDatasetSource(tmp_path, files="*.zip").items())


def _gzip(content: bytes) -> bytes:
    import gzip

    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) as file:
        file.write(content)
    return stream.getvalue()
