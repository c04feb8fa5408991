"""Files of a verifier's model: lookup in installed packages, folders and the hub, and hashes of their content."""

import hashlib
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from modules.hub import NOT_NEEDED, WEIGHT_SUFFIXES, download


def package_folder(package: str, install: str) -> Path:
    """Folder of an installed package, without importing it.

    Raises:
        ImportError: It is not installed; names the command `pip install {install}`.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"Expected the package `{package}` to be installed: pip install {install}")
    return Path(next(iter(spec.submodule_search_locations)))


def model_folder(model: str, weights: Sequence[str]) -> Path:
    """A local folder, or the cached folder of a name on the model hub, downloaded if necessary; of the weights, only
    those of the first pattern in `weights` that the repository has.

    Raises:
        FileNotFoundError: `model` is neither, or cannot be downloaded.
    """
    if Path(model).is_dir():
        return Path(model)
    if model.count("/") > 1 or model.startswith((".", "/", "~")):
        raise FileNotFoundError(f"Expected `model` to be a folder or a hub name, but got {model}.")
    return download(model, weights)


def settings_hash(folder: Path) -> str:
    """SHA-256 over all files of a model's folder except weights, notes and hidden files: its configuration, feature
    extractor and vocabulary, which change the model's output but not its identity."""
    others = (*WEIGHT_SUFFIXES, *NOT_NEEDED)
    files = (one for one in folder.iterdir() if one.is_file() and not one.name.startswith("."))
    return content_hash(sorted(one for one in files if one.suffix not in others))


def content_hash(files: Iterable[Path]) -> str:
    """SHA-256 over the content of the files, in the order given; names and locations do not matter."""
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
