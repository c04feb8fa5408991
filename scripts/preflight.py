"""Checks whether this machine has everything for `make demo` (or, with --install, for the installation alone), and
prints remedies.

Runs before anything is installed: needs only the standard library of any Python 3. Exit status 1 if a requirement is
missing.
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PYTHON_NEEDED = (3, 11)
GB_TO_INSTALL, GB_TO_RUN, GB_OF_MEMORY = 3.0, 1.0, 6.0  # installing takes 7 more if the index provides torch for CUDA
PACKAGES = ("torch", "lightning", "transformers", "faster_whisper", "resemblyzer", "pytest")
LANGUAGES = ("en",)  # languages read by configs/demo


class Check:
    """One line of the report: `problem` is empty if all is well; then `remedy` is a note."""

    def __init__(self, name, finding, problem="", remedy=""):
        self.name, self.finding, self.problem, self.remedy = name, finding, problem, remedy


def check_python(version=sys.version_info):
    found = ".".join(map(str, version[:3]))
    if tuple(version[:2]) < PYTHON_NEEDED:
        needed = ".".join(map(str, PYTHON_NEEDED))
        return Check("python", found, "too old", f"install Python {needed} or later: `make demo PYTHON=python{needed}`")
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        return Check("python", found, "no venv and pip", "`apt install python3-venv`, or a Python from python.org")
    return Check("python", found)


def check_disk(needed_gb, folder=REPOSITORY):
    free_gb = shutil.disk_usage(folder).free / 1e9
    finding = f"{free_gb:.1f} GB free, about {needed_gb:.0f} will be used"
    if free_gb < needed_gb:
        return Check("disk", finding, "too little", "free some, or clone to a larger disk")
    return Check("disk", finding)


def check_memory(needed_gb=GB_OF_MEMORY):
    try:
        memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, OSError, ValueError):
        return Check("memory", "unknown on this system")
    finding = f"{memory_gb:.1f} GB, up to {needed_gb:.0f} used"
    return Check("memory", finding if memory_gb >= needed_gb else f"{finding}: may not be enough")


def check_compiler(find=shutil.which, include=None):
    """Check for a C compiler: pesq is the only requirement built from source."""
    header = Path(include or sysconfig.get_paths()["include"]) / "Python.h"
    compiler = next(filter(None, map(find, ("cc", "gcc", "clang"))), None)
    remedy = "`apt install build-essential python3-dev` (macOS: `xcode-select --install`)"
    if compiler is None:
        return Check("compiler", "no cc, gcc or clang", "needed to build pesq", remedy)
    if not header.is_file():
        return Check("compiler", f"{compiler}, but no {header}", "needed to build pesq", remedy)
    return Check("compiler", compiler)


def check_index(fetch=None):
    """Check that pip, with this machine's settings, can download a small pinned package."""
    pin = re.search(r"^tqdm==\S+", (REPOSITORY / "requirements.txt").read_text(), re.MULTILINE)[0]
    try:
        finding = (fetch or fetch_from_index)(pin)
    except OSError as error:
        remedy = "go online; behind a proxy or mirror set HTTPS_PROXY or PIP_INDEX_URL"
        return Check("package index", " ".join(str(error).split())[-200:], "not reachable", remedy)
    return Check("package index", finding)


def fetch_from_index(pin):
    """Download with pip if available, because it knows mirrors and proxies; otherwise by a plain request. Raises
    OSError."""
    if importlib.util.find_spec("pip") is None:
        url = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/tqdm/"
        with urllib.request.urlopen(url, timeout=15):
            return f"{url} answers"
    with tempfile.TemporaryDirectory() as folder:
        download = ["download", "--quiet", "--no-deps", "--timeout", "15", "--retries", "1", "--dest", folder, pin]
        run = subprocess.run([sys.executable, "-m", "pip", *download], capture_output=True, text=True)
        if run.returncode:
            raise OSError(run.stderr or run.stdout)
        return f"pip fetched {pin}"


def check_recordings(cache, find=shutil.which):
    """Check that the recordings are cached, or that apt-get is available to download them."""
    names = [f"asterisk-core-sounds-{language}{part}" for language in LANGUAGES for part in ("", "-g722")]
    missing = [name for name in names if not list((cache / "packages").glob(f"{name}_*.deb"))]
    if not missing:
        return Check("recordings", f"in {cache}")
    if find("apt-get") is None:
        remedy = (
            f"put the .deb files of {', '.join(missing)} (packages.debian.org) into {cache / 'packages'}, "
            "or use recordings of your own: datamodules/sources/folder.py"
        )
        return Check("recordings", "not in the cache, and no apt-get here", "cannot be fetched", remedy)
    return Check("recordings", f"{', '.join(missing)} will be fetched with apt-get (no root needed)")


def check_comparisons(find=shutil.which):
    """Check for comparison codecs: Opus comes with PyAV; Codec2's rows need its programs."""
    if find("c2enc") is None:
        return Check("comparison codecs", "Opus; Codec2's rows are left out (optional: apt install codec2)")
    return Check("comparison codecs", "Opus and Codec2")


def installed(package):
    """Check whether .venv, or the running Python, has the package."""
    patterns = (f"lib/python*/site-packages/{package}", f"Lib/site-packages/{package}")
    in_venv = any(list((REPOSITORY / ".venv").glob(pattern)) for pattern in patterns)
    return in_venv or importlib.util.find_spec(package) is not None


def checks(install_only):
    """Return the checks needed on this machine: installed packages need no compiler and no network."""
    complete = all(map(installed, PACKAGES))
    needed_gb = (0 if complete else GB_TO_INSTALL) + (0 if install_only else GB_TO_RUN)
    found = [check_python(), check_disk(needed_gb)]
    if not installed("pesq"):
        found.append(check_compiler())
    if install_only or not complete:
        found.append(check_index())
    if not install_only:
        root = Path(os.environ.get("SUITE_ROOT") or REPOSITORY)
        found += [check_memory(), check_recordings(root / "cache" / "asterisk"), check_comparisons()]
    return found


def report(found):
    """Return the lines to print."""
    lines = []
    for check in found:
        lines.append(f"{'MISSING' if check.problem else 'ok':<8} {check.name}: {check.finding}")
        if check.problem:
            lines.append(f"{'':<8} {check.problem}: {check.remedy}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--install", action="store_true", help="check what the installation needs, and nothing more")
    found = checks(parser.parse_args().install)
    print(report(found), flush=True)
    sys.exit(any(check.problem for check in found))


if __name__ == "__main__":
    main()
