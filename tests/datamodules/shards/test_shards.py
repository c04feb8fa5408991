"""Shards: written samples can be read unchanged, by us and by plain WebDataset."""

import io
import json
import os

import numpy as np
import pytest
import webdataset

from datamodules.shards.shards import ShardIndex, ShardReader, ShardWriter, held_out


def write(folder, num_samples=23, samples_per_shard=5):
    with ShardWriter(folder, "tokens", {"codebook_size": 64}, samples_per_shard) as writer:
        for number in range(num_samples):
            codes = np.arange(number + 1, dtype=np.uint16)
            files = {"codes.npy": codes, "json": json.dumps({"text": f"text {number}"}).encode()}
            writer.write(f"key_{number}", files, len(codes), f"text {number}")
        writer.skip("key_bad", "silent")
    return ShardIndex.load(folder, "tokens")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_any_order_gives_what_was_written(tmp_path):
    """Guards against wrong byte offsets: the tar writer buffers, so the file position lags behind."""
    index = write(tmp_path)
    reader = ShardReader(index)
    for row in np.random.default_rng(0).permutation(len(index)):
        sample = reader.read(row)
        number = int(sample["__key__"].removeprefix("key_"))
        assert np.array_equal(np.load(io.BytesIO(sample["codes.npy"])), np.arange(number + 1))
        assert index.lengths[row] == number + 1
        assert index.text_lengths[row] == len(f"text {number}")


def test_plain_webdataset_reads_the_shards(tmp_path):
    """Guards against a private format: the tar files must open with WebDataset's own pipeline."""
    write(tmp_path)
    paths = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [f"key_{number}" for number in range(23)]


def test_same_data_gives_the_same_bytes(tmp_path):
    """Guards against times in the tar headers, which would make every preparation look new."""
    write(tmp_path / "a")
    write(tmp_path / "b")
    for path in (tmp_path / "a").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_keys_that_webdataset_would_merge_are_refused(tmp_path):
    """WebDataset cuts names at the first dot: `a.1` and `a.2` would become one sample."""
    with ShardWriter(tmp_path, "tokens", {}) as writer:
        for key in ("a.1", "a/1", "a 1", ""):
            with pytest.raises(ValueError, match="without dots"):
                writer.write(key, {"json": b"{}"}, 1, "")
        writer.write("a", {"json": b"{}"}, 1, "")
        with pytest.raises(ValueError, match="once"):
            writer.write("a", {"json": b"{}"}, 1, "")


def test_damaged_and_missing_shards_are_named(tmp_path):
    """Guards against reading a damaged byte range as another sample, and taking an incomplete folder for complete."""
    index = write(tmp_path)
    path = tmp_path / index.shards[0]
    content = bytearray(path.read_bytes())
    content[index.offsets[1] : index.offsets[1] + 300] = b"x" * 300
    path.write_bytes(content)
    reader = ShardReader(index)
    assert reader.read(0)["__key__"] == "key_0"
    with pytest.raises(ValueError, match=r"000000\.tar"):
        reader.read(1)
    with pytest.raises(FileNotFoundError, match=r"no index\.json"):
        ShardIndex.load(tmp_path / "nowhere", "tokens")
    with pytest.raises(ValueError, match="audio shards"):
        ShardIndex.load(tmp_path, "audio")
    assert index.report["skipped_by_reason"] == {"silent": 1}
    (tmp_path / "broken").mkdir()
    writer = ShardWriter(tmp_path / "broken", "tokens", {}).__enter__()
    writer.write("a", {"json": b"{}"}, 1, "")
    writer.__exit__(RuntimeError, RuntimeError(), None)
    with pytest.raises(FileNotFoundError):
        ShardIndex.load(tmp_path / "broken", "tokens")


def test_shards_are_replaced_whole_and_at_the_end(tmp_path):
    """Guards against deleting finished shards when a writer is opened, before there is a replacement."""
    write(tmp_path)
    (tmp_path / "NOTES.md").write_text("mine")
    before = contents(tmp_path)
    writer = ShardWriter(tmp_path, "tokens", {"codebook_size": 64}, 50).__enter__()
    writer.write("key_0", {"json": b"{}"}, 1, "text 0")
    assert before.items() < contents(tmp_path).items(), "all of it stands while another set is written"
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert contents(tmp_path) == before
    again = write(tmp_path, 25, samples_per_shard=50)
    assert again.shards == ["000000.tar"] and len(again) == 25
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.tar", "NOTES.md", "index.json", "index.npz"]
    assert [ShardReader(again).read(row)["__key__"] for row in (0, 24)] == ["key_0", "key_24"]


def test_shards_of_something_else_are_not_replaced(tmp_path):
    """Guards against a wrong folder: shards of another kind or codec, of other samples, or downloaded tar files."""
    write(tmp_path / "shards")
    before = contents(tmp_path / "shards")
    for kind, header in (("audio", {"codebook_size": 64}), ("tokens", {"codebook_size": 32}), ("tokens", {})):
        with pytest.raises(ValueError, match=r"to be free for .* but it holds tokens shards of {'codebook_size': 64}"):
            ShardWriter(tmp_path / "shards", kind, header).__enter__()
    with pytest.raises(ValueError, match=r"20 are missing or of another length, such as 'key_10'.*shards/unfinished"):
        write(tmp_path / "shards", 3)
    assert len(ShardIndex.load(tmp_path / "shards/unfinished", "tokens")) == 3, "the new ones are not lost either"
    assert before.items() < contents(tmp_path / "shards").items()
    (tmp_path / "download").mkdir()
    (tmp_path / "download/000000.tar").write_bytes(b"of others")
    with pytest.raises(ValueError, match=r"it holds 000000\.tar without an index\.json"):
        write(tmp_path / "download")
    assert contents(tmp_path / "download") == {"000000.tar": b"of others"}


@pytest.mark.parametrize("num_moved", range(5))
def test_a_writer_killed_while_it_replaces(tmp_path, monkeypatch, num_moved):
    """Guards against a folder that looks complete, or that no writer accepts again, after a kill between two files."""

    class Killed(BaseException):
        pass

    write(tmp_path, 5)
    replace, moved = os.replace, []

    def replace_some(source, target):
        if len(moved) == num_moved:
            raise Killed
        moved.append(replace(source, target))

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace_some)
        with pytest.raises(Killed):
            write(tmp_path, 12)  # three shards and two files of the index
    with pytest.raises(FileNotFoundError, match=r"no index\.json"):
        ShardIndex.load(tmp_path, "tokens")
    with pytest.raises(ValueError, match="7 are missing"):
        write(tmp_path, 5)  # the whole set was put in place before
    index = ShardIndex.load(tmp_path, "tokens")
    assert [ShardReader(index).read(row)["__key__"] for row in range(12)] == [f"key_{row}" for row in range(12)]


def test_one_key_in_ten_is_held_out():
    """Guards against another hash, which would move recordings between training and test."""
    share = np.mean([held_out(f"key_{number}") for number in range(5000)])
    assert 0.08 < share < 0.12
    assert [number for number in range(40) if held_out(f"key_{number}")] == [9, 18, 19, 37]
