"""Provenance of results: package versions, and digests of settings and weights."""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from modules.api import Verifier

DISTRIBUTIONS = (
    *("torch", "lightning", "transformers", "torchmetrics", "numpy"),
    *("faster-whisper", "pocketsphinx", "moonshine-voice", "onnxruntime"),
)


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


def weights_hash(weights: Mapping[str, Tensor], settings: str = "") -> str:
    """sha256 (hex) of `settings`, then the names and bytes of all weights in the order of their names.

    It names token shards and stored results: it keeps its bytes.
    """
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(weights.items()):
        bytes_N = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)  # numpy has no bfloat16
        digest.update(name.encode() + bytes_N.numpy().tobytes())
    return digest.hexdigest()


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
