"""Reads published tar files member by member: where each lies, and the content of small ones."""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 512  # bytes of a tar header
COMPRESSED: dict[bytes, Callable[..., Any] | None] = {  # first bytes, and what opens it
    b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open, b"\x28\xb5\x2f\xfd": None,
}  # fmt: skip


@dataclass(frozen=True)
class TarMember:
    """A regular file of a tar. `bytes_at` = (offset, size) in a tar without compression, else None, and then `content`
    is read; `content` is b"" if it was not read."""

    name: str
    bytes_at: tuple[int, int] | None = None
    content: bytes = b""


class JoinedFiles(io.RawIOBase):
    """One file that is published in parts, read from its start to its end."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.stream: BinaryIO = io.BytesIO()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not (size := self.stream.readinto(buffer)) and self.paths:  # type: ignore[attr-defined]
            self.stream.close()
            self.stream = self.paths.pop(0).open("rb")
        return size

    def close(self) -> None:
        self.stream.close()
        super().close()


def is_compressed(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(5).startswith(tuple(COMPRESSED))


def check_in_place(paths: Sequence[Path]) -> None:
    """Raise ValueError if a tar is compressed: no place in it can be read without what precedes it."""
    if found := [path for path in paths if is_compressed(path)]:
        raise ValueError(
            f"Expected tar files without compression for `in_place`, but got {found[0]} ({len(found)} of {len(paths)} "
            "files). Set `in_place` to false, which copies their audio into new shards, or decompress them (`gunzip`)."
        )


def tar_members(paths: Sequence[Path], reads: Callable[[str], bool]) -> Iterator[TarMember]:
    """The regular files of a tar, or of one in several parts, in their order; macOS's `._x` are left out.

    Of a tar without compression headers alone are read, and the content of files for whose name `reads` is true.
    Raises ValueError where it is damaged or ends too early.
    """
    try:
        if len(paths) > 1 or is_compressed(paths[0]):
            yield from _streamed(paths)
        else:
            yield from _placed(paths[0], reads)
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _placed(path: Path, reads: Callable[[str], bool]) -> Iterator[TarMember]:
    with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # or all are kept
            if _is_wanted(member):
                content = b""
                if reads(member.name):
                    stream.seek(member.offset_data)
                    content = stream.read(member.size)
                yield TarMember(_plain(member.name), (member.offset_data, member.size), content)
        stream.seek(tar.offset)  # tarfile ends at a damaged header as at the end
        block = stream.read(BLOCK)
        if any(block):
            raise ValueError(f"a damaged header at byte {tar.offset}")
        if len(block) < BLOCK:
            raise ValueError("it ends without the mark of its end: is it whole?")


def _streamed(paths: Sequence[Path]) -> Iterator[TarMember]:
    with io.BufferedReader(JoinedFiles(paths)) as joined:
        first = joined.peek(5)
        opens = next((opens for mark, opens in COMPRESSED.items() if first.startswith(mark)), lambda stream: stream)
        if opens is None:
            raise ValueError("compressed with zstd: decompress it with `zstd -d`")
        with tarfile.open(fileobj=opens(joined), mode="r|") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()
                if _is_wanted(member):
                    yield TarMember(_plain(member.name), None, tar.extractfile(member).read())


def _is_wanted(member: tarfile.TarInfo) -> bool:
    return member.isreg() and not member.name.rpartition("/")[2].startswith("._")


def _plain(name: str) -> str:
    return name.removeprefix("./")


def tar_samples(members: Iterator[TarMember]) -> Iterator[tuple[str, dict[str, TarMember]]]:
    """Key and files, by what follows the key, of each WebDataset sample: adjacent members whose names are equal up to
    the first dot of the file's name."""
    sample: dict[str, TarMember] = {}
    last = ""
    for member in members:
        folder, slash, file = member.name.rpartition("/")
        stem, _, extension = file.partition(".")
        key = f"{folder}{slash}{stem}"
        if sample and key != last:
            yield last, sample
            sample = {}
        last = key
        sample[extension.lower()] = member
    if sample:
        yield last, sample
