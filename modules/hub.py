"""Model repositories of the Hugging Face hub: the folder of one, with the files that are needed and no others."""

from collections.abc import Sequence
from pathlib import Path

WEIGHT_SUFFIXES = (".bin", ".ckpt", ".h5", ".msgpack", ".onnx", ".pb", ".pt", ".pth", ".safetensors")
NOT_NEEDED = (".gguf", ".md", ".nemo", ".onnx_data")


def download(name: str, weights: Sequence[str], others: Sequence[str] | None = None) -> Path:
    """Folder of a repository in the hub's cache, downloaded where it is not there. Subfolders are left out.

    Args:
        name: OWNER/NAME, as the hub has it.
        weights: Patterns of weight files; only those of the first pattern that the repository holds are fetched.
        others: Patterns of the files beside the weights; None for all but other weights, notes and hidden files.

    Raises FileNotFoundError, which names the repository, where it is neither in the cache nor to be had, or where it
    holds no such weights.
    """
    from huggingface_hub import snapshot_download

    try:
        for pattern in weights:
            folder = Path(snapshot_download(name, allow_patterns=[pattern], ignore_patterns=["*/*"]))
            if not any(folder.glob(pattern)):
                continue
            ignored = ["*/*", ".*", *(f"*{suffix}" for suffix in (*WEIGHT_SUFFIXES, *NOT_NEEDED))]
            allowed = None if others is None else list(others)
            # The commit that the weights are of: the repository may have got another one since.
            return Path(snapshot_download(name, revision=folder.name, allow_patterns=allowed, ignore_patterns=ignored))
    except (OSError, ValueError) as error:  # no such name, no way to the hub, or offline and not in the cache
        raise FileNotFoundError(
            f"Expected the model `{name}` in the cache of the hub or a way to the hub, but got: {error}"
        ) from error
    raise FileNotFoundError(f"Expected weights ({' or '.join(weights)}) in `{name}`, but got none.")
