"""Debian packages of any files, for tests without a network."""

import io
import tarfile
from pathlib import Path


def write_deb(path: Path, files: dict[str, bytes], compression: str = "xz") -> None:
    """Write a Debian package: ar members debian-binary, control.tar.xz (odd length, padded), data.tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", f"data.tar.{compression}/": buffer.getvalue()}
    archive = b"!<arch>\n"
    for name, data in members.items():
        archive += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    path.write_bytes(archive)
