"""Provenance of results: package versions, and digests of settings."""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from typing import Any

from modules.api import Verifier

DISTRIBUTIONS = ("torch", "lightning", "transformers", "torchmetrics", "numpy", "faster-whisper", "pocketsphinx")


def package_versions(distributions: Sequence[str] = DISTRIBUTIONS) -> dict[str, str]:
    """Return the versions of those distributions that are installed."""
    versions = {}
    for name in distributions:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON value; independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def plain(value: Any) -> Any:
    """Settings as JSON: dataclasses and other objects become their class and public attributes, a verifier its hash.

    A class is represented by its bare name, so that stored digests stay valid if a module moves.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if hasattr(value, "__qualname__"):  # a class or a function
        return value.__qualname__
    record = {"class": type(value).__qualname__}
    if isinstance(value, Verifier):
        return record | {"model_hash": value.facts.model_hash, "settings": plain(value.facts.settings)}
    if dataclasses.is_dataclass(value):
        return record | {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if not hasattr(value, "__dict__"):
        return str(value)
    return record | {name: plain(item) for name, item in vars(value).items() if not name.startswith("_")}
