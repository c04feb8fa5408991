"""Settings that determine a score besides the weights: the constructor arguments of verifiers and their values."""

import inspect
from typing import Any

# Arguments that do not change a score, with reasons. All others do: a new argument counts without being listed.
NOT_SETTINGS = {
    "name": "the column's name; scores are stored under it",
    "model": "where the files are found; `model_hash` and `files_hash` say what they are",
    "weights": "the same, as a file",
    "families": "a label of reports",
    "device": "how fast, not what",
    "batch_size": "how fast, not what: a batch gives what single clips give",
    "num_workers": "how fast, not what",
    "cpu_threads": "how fast, not what",
}


def constructor_settings(built: Any) -> dict[str, Any]:
    """The constructor arguments of `built` that can change a score, by name; each must be an attribute of that name.
    For classes with a `model` argument, the files besides the weights are included too: the attribute `files_hash`.

    Raises:
        AttributeError: An argument is not stored as an attribute.
    """
    parameters = inspect.signature(type(built)).parameters
    settings = {name: getattr(built, name) for name in parameters if name not in NOT_SETTINGS}
    return settings | ({"files": built.files_hash} if "model" in parameters else {})
