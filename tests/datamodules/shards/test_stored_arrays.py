"""Fast readers return the same as NumPy and WebDataset; other files use the general readers."""

import io
import tarfile

import numpy as np
import pytest
from webdataset import TarWriter
from webdataset.tariterators import group_by_keys, tar_file_iterator

from datamodules.shards import shards
from datamodules.shards.shards import ShardIndex, ShardReader, ShardWriter
from datamodules.shards.stored_arrays import mapped_arrays, read_array
from datamodules.shards.tar_samples import plain_sample

ARRAYS = {
    "keys": np.array(["a", "bcd", "é"]), "numbers": np.arange(5), "empty": np.zeros(0), "square": np.ones((3, 2)).T,
}  # fmt: skip


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_mapped_arrays_are_those_that_were_saved(save, tmp_path):
    """Guards against wrong offsets into the archive, and against reading a compressed one as uncompressed."""
    save(tmp_path / "a.npz", **ARRAYS)
    mapped = mapped_arrays(tmp_path / "a.npz")
    assert list(mapped) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        assert mapped[name].dtype == expected.dtype
        np.testing.assert_array_equal(mapped[name], expected)
    is_mapped = isinstance(mapped["numbers"].base, np.memmap)
    assert is_mapped == (save is np.savez), "an index of a whole corpus must not be read to be opened"


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("array", [*ARRAYS.values(), np.arange(9, dtype=np.uint16), np.arange(3, dtype=">i4")])
def test_an_array_is_what_numpy_loads(array):
    found = read_array(npy(array))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_damaged_arrays_are_refused_as_numpy_refuses_them():
    """Guards against silently truncated codes, and against pickles that run code."""
    whole = npy(np.arange(9, dtype=np.uint16))
    for damaged in (whole[:-3], whole[:30], b"", b"x" * 200, npy(np.array([{}], dtype=object))):
        with pytest.raises((ValueError, EOFError)) as expected:
            np.load(io.BytesIO(damaged))
        with pytest.raises(expected.type):
            read_array(damaged)


def tar_of(**files: bytes) -> bytes:
    stream = io.BytesIO()
    writer = TarWriter(stream, mtime=0)
    writer.write({"__key__": files.pop("key", b"k").decode(), **files})
    size = writer.tarstream.offset
    writer.close()
    return stream.getvalue()[:size]


def by_webdataset(chunk: bytes) -> dict[str, bytes]:
    files = [dict(item, __url__="") for item in tar_file_iterator(io.BytesIO(chunk))]
    (sample,) = group_by_keys(files)
    del sample["__url__"]
    return sample


def test_a_plain_sample_is_what_webdataset_reads():
    for files in ({"json": b"{}", "codes.npy": bytes(range(256)) * 9}, {"flac": b"x" * 512}, {"empty": b"", "b": b"1"}):
        chunk = tar_of(**files)
        assert plain_sample(chunk) == by_webdataset(chunk) == {"__key__": "k", **files}


def test_what_is_not_plain_goes_to_webdatasets_reader():
    """Guards against truncated long names, folders, links, and trusting a damaged header."""
    assert by_webdataset(tar_of(key=b"k" * 200, json=b"{}"))["json"] == b"{}"
    link = tarfile.TarInfo("k.json")
    link.type, link.linkname = tarfile.SYMTYPE, "other"
    chunk = tar_of(json=b"{}", flac=b"abc")
    damaged = [bytes([*chunk[:place], chunk[place] ^ 1, *chunk[place + 1 :]]) for place in (0, 130, 150, 520 + 512)]
    for other in (
        tar_of(key=b"k" * 200, json=b"{}"), tar_of(key="é".encode(), json=b"{}"), tar_of(key=b"a/k", json=b"{}"),
        tar_of(JSON=b"{}"), link.tobuf(), chunk[:-512], chunk + tar_of(key=b"other", json=b"{}"), b"", *damaged,
    ):  # fmt: skip
        assert plain_sample(other) is None


def test_a_reader_keeps_few_shards_open(tmp_path, monkeypatch):
    """Guards against a corpus of more shards than a process may open."""
    monkeypatch.setattr(shards, "MAX_OPEN_SHARDS", 3)
    with ShardWriter(tmp_path, "tokens", {}, samples_per_shard=1) as writer:
        for number in range(8):
            writer.write(f"k{number}", {"json": b"%d" % number}, 1, "")
    reader = ShardReader(ShardIndex.load(tmp_path, "tokens"))
    for row in (0, 1, 2, 0, 3, 4, 0, 5, 7, 6, 1):
        assert reader.read(row)["json"] == b"%d" % row
        assert len(reader._files) <= 3
