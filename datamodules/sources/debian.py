"""Debian packages as a data source: downloaded with apt without root, read with Python alone."""

import io
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

ALTERNATIVES = (
    "Either run `apt-get download {names}` on a Debian or Ubuntu machine that is online and name the folder with those "
    ".deb files in `packages`, or use FolderSource with recordings of your own."
)


def read_deb(path: Path) -> dict[str, bytes]:
    """Return the files that a Debian package installs, by path (without a leading slash): a tar inside an ar archive.

    Raises ValueError if the file is not a complete Debian package, or is compressed in a way that this Python lacks.
    """
    data = path.read_bytes()
    if not data.startswith(b"!<arch>\n"):
        raise ValueError(f"Expected `{path}` to be a Debian package, but got a file that is no ar archive.")
    position = 8
    while position + 60 <= len(data):
        header = data[position : position + 60]
        if header[58:] != b"`\n":
            raise ValueError(f"Expected `{path}` to be a whole Debian package, but got a damaged ar header.")
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])
        if name.startswith("data.tar"):
            return _read_tar(data[position + 60 : position + 60 + size], name, path)
        position += 60 + size + size % 2  # members start at even positions
    raise ValueError(f"Expected `{path}` to be a Debian package, but got an archive without data.tar: cut short?")


def _read_tar(data: bytes, name: str, path: Path) -> dict[str, bytes]:
    compression = name.removeprefix("data.tar").removeprefix(".")
    if compression and compression not in tarfile.TarFile.OPEN_METH:
        raise ValueError(
            f"Expected `{path}` to be compressed with xz, gzip or bzip2, but got {name}, which this Python cannot read "
            "(zst needs Python 3.14). Take the package from Debian itself, or repack it with `dpkg-deb -R` and "
            "`dpkg-deb -Zxz -b`."
        )
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode=f"r:{compression}") as archive:
            members = [member for member in archive if member.isfile() or member.islnk()]
            return {member.name.removeprefix("./"): archive.extractfile(member).read() for member in members}
    except (tarfile.TarError, OSError, EOFError, KeyError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"Expected `{path}` to be a whole Debian package, but got: {error}") from error


def find_packages(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Find the file `NAME_VERSION_ARCHITECTURE.deb` in `folder` of each package that is there."""
    found = {name: sorted(folder.glob(f"{name}_*.deb")) for name in names}
    return {name: paths[-1] for name, paths in found.items() if paths}


def download(names: Sequence[str], folder: Path) -> None:
    """Download packages into `folder` with `apt-get download`.

    Nothing is installed, root is not needed, and the packages appear in `folder` only when all of them are complete.
    Apt's lists and caches are temporary, so that concurrent downloads do not interfere. Raises RuntimeError if there is
    no apt-get or it fails (offline, unknown package); the message lists alternatives.
    """
    alternatives = ALTERNATIVES.format(names=" ".join(names))
    if shutil.which("apt-get") is None:
        raise RuntimeError(f"Expected `apt-get` for fetching {len(names)} packages, but got none. {alternatives}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as state, tempfile.TemporaryDirectory(dir=folder) as arrivals:
        for partial in ("lists/partial", "cache/archives/partial"):
            (Path(state) / partial).mkdir(parents=True)
        options = [f"-oDir::State::Lists={Path(state).resolve()}/lists", f"-oDir::Cache={Path(state).resolve()}/cache"]
        apt = ["apt-get", "-q", *options, "-oDebug::NoLocking=1", "-oAcquire::Retries=2", "-oAcquire::http::Timeout=30"]
        report = ""
        for command in (["update"], ["download", *names]):
            run = subprocess.run(
                [*apt, *command], cwd=arrivals, capture_output=True, text=True, stdin=subprocess.DEVNULL
            )
            report += " ".join(run.stderr.split())[:500] + " "  # offline, update succeeds: its warnings have the reason
            if run.returncode:
                raise RuntimeError(f"Expected `apt-get {command[0]}` to work, but got: {report}{alternatives}")
        missing = [name for name in names if not find_packages(Path(arrivals), [name])]
        if missing:
            raise RuntimeError(
                f"Expected `apt-get` to fetch {', '.join(missing)}, but got nothing: {report}{alternatives}"
            )
        for path in Path(arrivals).glob("*.deb"):
            os.replace(path, folder / path.name)
