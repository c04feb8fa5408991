"""Reads one sample of a WebDataset shard from its bytes, plain samples only, and makes the bytes of one: both about ten
times as fast as general tar software.

A plain sample is what TarWriter makes of short ASCII names: regular files with names KEY.EXTENSION, one key.
"""

import tarfile
from collections.abc import Mapping

BLOCK = 512  # bytes; a tar header is one block, and files are padded to whole ones
NAME, SIZE, CHECKSUM, KIND, MAGIC, PREFIX = (
    slice(0, 100), slice(124, 136), slice(148, 156), slice(156, 157), slice(257, 262), slice(345, 500)
)  # fmt: skip
NO_PREFIX = bytes(155)


def plain_sample(chunk: bytes) -> dict[str, bytes | str] | None:
    """Return {"__key__": key, extension: bytes, …} of the files in `chunk`; None if they are not plain, or damaged."""
    sample: dict[str, bytes | str] = {}
    start = 0
    try:
        while start < len(chunk):
            header = chunk[start : start + BLOCK]
            if header[MAGIC] != b"ustar" or header[KIND] != b"0" or header[PREFIX] != NO_PREFIX:
                return None
            checksum = header[CHECKSUM]  # counted as eight spaces
            if sum(header) - sum(checksum) + 8 * ord(" ") != _octal(checksum):
                return None
            key, dot, extension = header[NAME].rstrip(b"\0").decode("ascii").partition(".")
            if not key or not dot or key.startswith("__") or "/" in key + extension or extension != extension.lower():
                return None
            first, size = start + BLOCK, _octal(header[SIZE])
            start = first + -(-size // BLOCK) * BLOCK
            if sample.setdefault("__key__", key) != key or extension in sample or start > len(chunk):
                return None
            sample[extension] = chunk[first : first + size]
    except ValueError:  # not octal or not ASCII
        return None
    return sample or None


def packed_sample(key: str, files: Mapping[str, bytes]) -> bytes:
    """The bytes of one sample in a tar, as webdataset's TarWriter writes it with `mtime=0`; `files` by extension."""
    parts: list[bytes] = []
    for extension in sorted(files):
        header = tarfile.TarInfo(f"{key}.{extension}")
        header.size, header.mode, header.uname, header.gname = len(files[extension]), 0o444, "bigdata", "bigdata"
        parts += [header.tobuf(), files[extension], bytes(-len(files[extension]) % BLOCK)]
    return b"".join(parts)


def tar_end(num_bytes: int) -> bytes:
    """What follows the last sample of a tar of so many bytes: two empty blocks, and more up to a whole record."""
    return bytes(2 * BLOCK + -(num_bytes + 2 * BLOCK) % tarfile.RECORDSIZE)


def _octal(field: bytes) -> int:
    return int(field.strip(b"\0 "), 8)
