"""LhotseSource and SharSource on what `lhotse` writes, against what it reads."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.shards.preparation import prepare_audio_shards
from datamodules.shards.samples import read_samples
from datamodules.shards.shards import ShardIndex, ShardReader, is_in_place
from datamodules.sources.lhotse import LhotseSource, SharSource
from tests.toys.miniatures import found_in, write_text, write_tone
from tests.toys.tar_miniatures import found_inside, members_of


def write_stereo(path: Path) -> None:
    """Write a tone of another pitch in each channel, as telephone calls have a speaker in each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times_T = np.arange(4800) / 16_000
    waves_TC = np.stack([0.4 * np.sin(2 * np.pi * pitch * times_T) for pitch in (553, 661)], axis=1)
    soundfile.write(path, waves_TC, 16_000)


def supervision(name: str, recording: str, start: float, duration: float, text: str | None, **more):
    from lhotse import SupervisionSegment

    return SupervisionSegment(name, recording, start, duration, text=text, **more)


def recordings_of(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Recordings with relative paths, as recipes make them in their own folder."""
    from lhotse import Recording

    write_tone(root / "audio/a.wav", 16_000, 0.2)
    write_stereo(root / "audio/call.wav")
    (root / "data").mkdir()
    monkeypatch.chdir(root)
    return {
        "a": Recording.from_file("audio/a.wav"),
        "x.y/call": Recording.from_file("audio/call.wav", recording_id="x.y/call"),
    }


def test_recordings_and_supervisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Guards start, duration and channel of a supervision, pairs of files, splits, sources that are commands or
    addresses, and several supervisions of one recording; the audio is what lhotse loads."""
    from lhotse import AudioSource, Recording, RecordingSet, SupervisionSet

    recordings = recordings_of(tmp_path, monkeypatch)
    a, call = recordings.values()
    for name, kind, source in (
        ("piped", "command", "touch ran; cat audio/a.wav"),
        ("far", "url", "https://example.invalid/a.wav"),
        ("held", "memory", "UklGRg=="),
    ):
        recordings[name] = Recording(name, [AudioSource(kind, [0], source)], 16_000, 3200, 0.2)
    train = [
        supervision("s1", "x.y/call", 0.05, 0.1, "left", channel=0, speaker="ann", language="en", gender="f"),
        supervision("s2", "x.y/call", 0.1, 0.2, "right", channel=1, speaker="bob"),
        supervision("piped", "piped", 0, 0.2, "piped"),
        supervision("far", "far", 0, 0.2, "far"),
        supervision("held", "held", 0, 0.2, "held"),
        supervision("lost", "lost", 0, 0.2, "lost"),
        supervision("both", "x.y/call", 0, 0.1, "both", channel=[0, 1]),
        supervision("mute", "a", 0, 0.2, None),
    ]
    RecordingSet.from_recordings(recordings.values()).to_file(tmp_path / "data/toy_recordings_train.jsonl.gz")
    SupervisionSet.from_segments(train).to_file(tmp_path / "data/toy_supervisions_train.jsonl.gz")
    RecordingSet.from_recordings([a]).to_file(tmp_path / "data/toy_recordings_dev.jsonl")
    dev = SupervisionSet.from_segments([supervision("s3", "a", 0, 0.2, "whole", speaker="ann")])
    dev.to_file(tmp_path / "data/toy_supervisions_dev.jsonl")
    found = found_in(LhotseSource(tmp_path, name="toy"))
    assert {name: one.text for name, one in found.kept.items()} == {"s1": "left", "s2": "right", "s3": "whole"}
    assert found.speakers == {"ann", "bob"} and found.hours == pytest.approx((0.1 + 0.2 + 0.2) / 3600)
    assert found.splits == {"s1": "train", "s2": "train", "s3": "held_out"}
    assert found.kept["s1"].language == "en" and found.kept["s1"].more == {"id": "s1", "gender": "f"}
    for one in train[:2]:
        reference = call.load_audio(channels=one.channel, offset=one.start, duration=one.duration)[0]
        np.testing.assert_allclose(found.kept[one.id].audio.samples_T.numpy(), reference, atol=1e-4)
    assert found.skips == {
        "a recording of type command": 1,
        "a recording of type url": 1,
        "a recording whose source is neither a file, a command nor a url": 1,
        "a supervision of a recording that is not listed": 1,
        "a supervision of several channels": 1,
        "no transcript": 1,
    }
    assert not (tmp_path / "ran").exists()
    allowed = found_in(LhotseSource(tmp_path, name="toy", files="*train*", allow_commands=True))
    assert set(allowed.kept) == {"s1", "s2", "piped"} and (tmp_path / "ran").exists()
    assert set(allowed.splits.values()) == {""}  # without dev, part of train is held out


def rows_of(indices: dict[str, ShardIndex]) -> dict[str, tuple[np.ndarray, bool]]:
    """Samples by key, and whether they lie in a published tar."""
    rows = {}
    for index in indices.values():
        reader = ShardReader(index)
        for row, key in enumerate(index.keys):
            rows[str(key)] = read_samples(index, row, reader.read(row)), is_in_place(index, row)
    return rows


def test_channels_are_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Guards against a plan that forgets channel 0: both speakers of a call in each recording."""
    from lhotse import RecordingSet, SupervisionSet

    _, call = recordings_of(tmp_path, monkeypatch).values()
    spans = [supervision(f"s{channel}", "x.y/call", 0.1, 0.1, "words", channel=channel) for channel in (0, 1)]
    RecordingSet.from_recordings([call]).to_file(tmp_path / "data/recordings.jsonl")
    SupervisionSet.from_segments(spans).to_file(tmp_path / "data/supervisions.jsonl")
    source = LhotseSource(tmp_path, name="toy", hold_out="key")
    rows = rows_of(prepare_audio_shards([source], tmp_path / "shards", 16_000))
    for channel in (0, 1):
        reference = call.load_audio(channels=channel, offset=0.1, duration=0.1)[0]
        np.testing.assert_allclose(rows[f"toy_s{channel}"][0], reference, atol=1e-4)


def test_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Guards cuts of a part, the channel of a cut (not of its supervision), supervisions relative to their cut, and
    kinds of cuts that are no part of one file."""
    from lhotse import CutSet, MonoCut, MultiCut

    a, call = recordings_of(tmp_path, monkeypatch).values()
    part = MonoCut("part", 0.05, 0.1, 0, [supervision("p", "a", 0, 0.1, "part", speaker="ann")], recording=a)
    spans = [supervision("s1", "x.y/call", -0.1, 0.2, "first"), supervision("s2", "x.y/call", 0.1, 0.1, "second")]
    call_cut = MonoCut("call", 0.1, 0.2, 1, spans, recording=call)
    whole = MonoCut("whole", 0, 0.2, 0, [supervision("w", "a", 0, 0.2, "whole", speaker="ann")], recording=a)
    both = MultiCut("both", 0, 0.2, [0, 1], [supervision("b", "x.y/call", 0, 0.2, "b", channel=[0, 1])], recording=call)
    cuts = [part, call_cut, whole, both, part.append(whole), part.pad(0.3), part.perturb_speed(0.9)]
    cuts += [MonoCut("bare", 0, 0.2, 0, [supervision("x", "bare", 0, 0.2, "x")])]
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    found = found_in(LhotseSource(tmp_path, name="toy"))
    texts = {name: one.text for name, one in found.kept.items()}
    assert texts == {"part": "part", "call-s1": "first", "call-s2": "second", "whole": "whole"}
    assert found.hours == pytest.approx((0.1 + 0.1 + 0.1 + 0.2) / 3600) and found.speakers == {"ann", ""}
    for name, reference in (("part", part), ("call-s2", call_cut.truncate(offset=0.1, duration=0.1)), ("whole", whole)):
        wave_T = found.kept[name].audio.samples_T.numpy()
        np.testing.assert_allclose(wave_T, reference.load_audio()[0], atol=1e-4)
    assert set(found.splits.values()) == {""}
    assert found.skips == {
        "a cut that is no part of one recording": 3,
        "a recording with transforms, which its file lacks": 1,
        "a cut without a recording": 1,
    }
    assert {reason.partition(": ")[2] for reason in found.reasons.values()} >= {"MultiCut", "MixedCut", "Speed"}
    with pytest.raises(ValueError, match=r"at `\*gone\*`: supervisions and recordings, or cuts"):
        list(LhotseSource(tmp_path, files="*gone*").items())


def write_shar(root: Path, monkeypatch: pytest.MonkeyPatch, audio_format: str = "flac") -> list:
    from lhotse import MonoCut
    from lhotse.shar import SharWriter

    a, call = recordings_of(root, monkeypatch).values()
    spans = [
        supervision("s1", "x.y/call", 0.05, 0.1, "first", speaker="ann"),
        supervision("s2", "x", 0.2, 0.1, "second"),
    ]
    cuts = [
        MonoCut("a", 0.05, 0.1, 0, [supervision("a", "a", 0, 0.1, "part", speaker="bob", language="en")], recording=a),
        MonoCut("nothing", 0, 0.1, 0, [supervision("n", "n", 0, 0.1, "no audio")]),
        MonoCut("x.y/call", 0, 0.3, 0, spans, recording=call),
        MonoCut("b", 0, 0.2, 0, [supervision("b", "a", 0, 0.2, "whole", speaker="bob")], recording=a),
    ]
    for split, some in (("train", cuts), ("dev", cuts[:1])):
        (root / "shar" / split).mkdir(parents=True)
        with SharWriter(root / "shar" / split, {"recording": audio_format}, shard_size=3) as writer:
            for cut in some:
                writer.write(cut.with_id(f"{split}-{cut.id}") if split == "dev" else cut)
    return cuts


@pytest.mark.parametrize("audio_format", ["flac", "wav"])
def test_shar_as_lhotse_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audio_format: str):
    """Guards pairs by place and not by id (dots, slashes), .nodata, several supervisions of a cut, the next shard, and
    that audio starts at the cut; the audio is what lhotse loads."""
    from lhotse import CutSet

    write_shar(tmp_path, monkeypatch, audio_format)
    source = SharSource(tmp_path / "shar", name="toy")
    found = found_inside(source)
    texts = {name: one.text for name, one in found.kept.items()}
    assert texts == {"a": "part", "x.y/call-s1": "first", "x.y/call-s2": "second", "b": "whole", "dev-a": "part"}
    assert found.speakers == {"ann", "bob", ""} and found.hours == pytest.approx((0.1 + 0.1 + 0.1 + 0.2 + 0.1) / 3600)
    assert found.splits == dict.fromkeys(["a", "x.y/call-s1", "x.y/call-s2", "b"], "train") | {"dev-a": "held_out"}
    assert found.skips == {"no audio in the tar (.nodata)": 1} and source.num_recordings == 3
    for cut in CutSet.from_shar(in_dir=tmp_path / "shar/train"):
        for one in cut.trim_to_supervisions() if cut.has_recording else []:
            name = cut.id if len(cut.supervisions) == 1 else f"{cut.id}-{one.supervisions[0].id}"
            wave_T = found.kept[name].audio.samples_T.numpy()
            np.testing.assert_allclose(wave_T, one.load_audio()[0], atol=1e-4)
    members = members_of(source)
    tar = (tmp_path / "shar" / members["b"].path).read_bytes()
    offset, size = members["b"].bytes_at
    assert tar[offset : offset + size].startswith(b"fLaC" if audio_format == "flac" else b"RIFF")
    assert members["b"].end is None and members["x.y/call-s2"].end == pytest.approx(0.3)


def test_shar_is_prepared_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Guards against whole cuts that are copied, and parts of cuts that are not."""
    write_shar(tmp_path, monkeypatch)
    source = SharSource(tmp_path / "shar/train", name="toy", hold_out="key")
    rows = rows_of(prepare_audio_shards([source], tmp_path / "shards", 16_000))
    expected = {one.key: one.audio.samples_T.numpy() for one in found_inside(source).kept.values()}
    assert rows.keys() == expected.keys() and len(rows) == 4
    for key, wave_T in expected.items():
        np.testing.assert_allclose(rows[key][0], wave_T, atol=1e-4)
    assert {key for key, (_, stays) in rows.items() if stays} == {"toy_a", "toy_b"}


def test_shar_that_does_not_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Guards against the text of one recording with the audio of the next, bad lines, and gzip in place."""
    write_shar(tmp_path, monkeypatch)
    folder = tmp_path / "shar/train"
    lines = gzip.decompress((folder / "cuts.000000.jsonl.gz").read_bytes()).decode().splitlines()
    (folder / "cuts.000000.jsonl.gz").unlink()
    write_text(folder / "cuts.000000.jsonl", "\n".join(["{broken", *lines[1:]]) + "\n")
    found = found_inside(SharSource(folder, name="toy"))
    assert set(found.kept) == {"x.y/call-s1", "x.y/call-s2", "b"}
    assert found.skips == {"not json": 1, "no audio in the tar (.nodata)": 1}
    extra = {**json.loads(lines[0]), "id": "more"}
    write_text(folder / "cuts.000000.jsonl", "\n".join([lines[0], lines[2], json.dumps(extra)]) + "\n")
    found = found_inside(SharSource(folder, name="toy"))
    assert set(found.kept) == {"a", "b"}
    assert found.skips == {"no audio in the tar (.nodata)": 2, "the tar and the cuts are not in step": 1}
    write_text(folder / "cuts.000000.jsonl", lines[0] + "\n")
    found = found_inside(SharSource(folder, name="toy"))
    assert found.skips == {"a damaged file of many recordings": 1} and set(found.kept) == {"a", "b"}
    tar = folder / "recording.000000.tar"
    (folder / "recording.000000.tar.gz").write_bytes(gzip.compress(tar.read_bytes()))
    tar.unlink()
    with pytest.raises(ValueError, match=r"recording\.000000\.tar\.gz .*Set `in_place` to false"):
        list(SharSource(folder).items())
    assert set(found_inside(SharSource(folder, name="toy", in_place=False)).kept) == {"a", "b"}
