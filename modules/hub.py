"""Download of model repositories from the Hugging Face hub, limited to the files needed."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

WEIGHT_SUFFIXES = (".bin", ".ckpt", ".h5", ".msgpack", ".onnx", ".pb", ".pt", ".pth", ".safetensors")
NOT_NEEDED = (".gguf", ".md", ".nemo", ".onnx_data")
NAME = re.compile(r"[\w.-]+/[\w.-]+")
MAX_REASON = 200  # characters of what the hub's client says: it writes paragraphs


def is_hub_name(name: str) -> bool:
    """Whether a name can be OWNER/NAME on the hub; that of a file of weights is a mistyped path."""
    return NAME.fullmatch(name) is not None and not name.endswith((".ckpt", ".safetensors", ".bin"))


def download(name: str, weights: Sequence[str], others: Sequence[str] | None = None) -> Path:
    """Return the folder of a repository in the hub's cache, downloading it if needed. Subfolders are omitted.

    Args:
        name: OWNER/NAME on the hub.
        weights: Patterns of weight files; only those of the first pattern that matches are downloaded.
        others: Patterns of the files besides the weights; None for all but other weights, notes and hidden files.

    Raises FileNotFoundError with the repository's name if it is neither cached nor available, or has no such weights.
    """
    from huggingface_hub import snapshot_download

    try:
        for pattern in weights:
            folder = Path(snapshot_download(name, allow_patterns=[pattern], ignore_patterns=["*/*"]))
            if not any(folder.glob(pattern)):
                continue
            ignored = ["*/*", ".*", *(f"*{suffix}" for suffix in (*WEIGHT_SUFFIXES, *NOT_NEEDED))]
            allowed = None if others is None else list(others)
            # The weights' commit: the repository may have a newer one.
            return Path(snapshot_download(name, revision=folder.name, allow_patterns=allowed, ignore_patterns=ignored))
    except (OSError, ValueError) as error:  # unknown name, no connection, or offline and not cached
        reason = textwrap.shorten(str(error), MAX_REASON, placeholder=" ...")
        raise FileNotFoundError(
            f"Expected the model `{name}` in the hub's cache, or access to the hub, but got: {reason}"
        ) from error
    raise FileNotFoundError(f"Expected weights ({' or '.join(weights)}) in `{name}`, but got none.")
