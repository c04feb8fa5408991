"""Commands and addresses in published lists: run or fetched only if a source allows it."""

import http.client
import subprocess
import urllib.request
from pathlib import Path

SCHEMES = ("http://", "https://", "ftp://", "s3://", "gs://", "ais://")


def refused(path: str) -> str:
    """Why a path that is a shell command (it ends in `|`) or an address is not used; "" if it is neither."""
    if path.rstrip().endswith("|"):
        return f"a shell command in place of a file, which `allow_commands` would run: {path.rstrip()}"
    if path.startswith(SCHEMES):
        return f"an address in place of a file, which `allow_commands` would fetch: {path}"
    return ""


def fetched(path: str, folder: Path) -> bytes:
    """The output of a shell command, run in `folder`, or the content of an address. Runs what a list says: only for
    lists that you trust. Raises OSError or RuntimeError if it fails."""
    if not path.rstrip().endswith("|"):
        try:
            with urllib.request.urlopen(path, timeout=60) as response:
                return response.read()
        except http.client.HTTPException as error:
            raise RuntimeError(f"an address failed: {path}: {error!r}") from error
    command = path.rstrip().removesuffix("|")
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, check=False)
    if done.returncode or not done.stdout:
        says = done.stderr.decode(errors="replace").strip()[-200:] or "no output"
        raise RuntimeError(f"a command failed ({done.returncode}): {command.strip()}: {says}")
    return done.stdout
