"""Fast reading of NumPy's files: arrays of an `.npz` are memory-mapped, and the header of a small `.npy`, which np.load
evaluates as Python for every array, is parsed once per distinct header."""

import io
import math
import struct
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np

NPY_MAGIC = b"\x93NUMPY\x01\x00"
NPY_START = len(NPY_MAGIC) + 2  # followed by the header's length, two bytes
LOCAL_HEADER = 30  # bytes before a name in a zip archive; its last four are two lengths


def mapped_arrays(path: Path) -> dict[str, np.ndarray]:
    """Map the arrays of an uncompressed `.npz` into memory, by name, read-only.

    Opening costs the same for a thousand rows and for a billion, and processes share the pages. A compressed archive is
    read with np.load. Raises like np.load if the file is not an archive of arrays.
    """
    with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
        return {member.filename.removesuffix(".npy"): _mapped(path, stream, archive, member)
                for member in archive.infolist()}  # fmt: skip


def _mapped(path: Path, stream: io.BufferedReader, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    stream.seek(member.header_offset)
    name_length, extra_length = struct.unpack("<HH", stream.read(LOCAL_HEADER)[-4:])
    stream.seek(name_length + extra_length, io.SEEK_CUR)
    if member.compress_type != zipfile.ZIP_STORED or stream.read(len(NPY_MAGIC)) != NPY_MAGIC:
        return np.lib.format.read_array(io.BytesIO(archive.read(member)), allow_pickle=False)
    (header_length,) = struct.unpack("<H", stream.read(2))
    dtype, shape, is_fortran = _layout(stream.read(header_length))
    if dtype.hasobject or 0 in shape:
        return np.lib.format.read_array(io.BytesIO(archive.read(member)), allow_pickle=False)
    order = "F" if is_fortran else "C"
    return np.asarray(np.memmap(path, dtype, "r", stream.tell(), shape, order))


def npy(array: np.ndarray) -> bytes:
    """The content of an `.npy` file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def read_array(content: bytes) -> np.ndarray:
    """Equal to np.load for the bytes of an `.npy` file; read-only. Raises ValueError or EOFError like np.load.

    A header that claims more values than there are bytes is rejected before memory is allocated.
    """
    start = NPY_START + int.from_bytes(content[len(NPY_MAGIC) : NPY_START], "little")
    if content.startswith(NPY_MAGIC) and len(content) >= start:
        dtype, shape, _ = _layout(content[NPY_START:start])
        is_row = len(shape) == 1 and shape[0] >= 0 and not dtype.hasobject
        if is_row and len(content) >= start + shape[0] * dtype.itemsize:
            return np.frombuffer(content, dtype, shape[0], start)
    if content.startswith(NPY_MAGIC[:6]):
        stream = io.BytesIO(content)
        is_first = np.lib.format.read_magic(stream) == (1, 0)
        shape, _, dtype = getattr(np.lib.format, f"read_array_header_{'1_0' if is_first else '2_0'}")(stream)
        num_bytes = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or num_bytes > len(content) - stream.tell():
            raise ValueError(f"Expected {num_bytes} bytes of {dtype} {shape}, but got {len(content) - stream.tell()}.")
    return np.load(io.BytesIO(content), allow_pickle=False)


@lru_cache(maxsize=4096)  # lengths recur
def _layout(header: bytes) -> tuple[np.dtype, tuple[int, ...], bool]:
    """Parse a header of version 1."""
    length = struct.pack("<H", len(header))
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(length + header))
    return dtype, shape, is_fortran
