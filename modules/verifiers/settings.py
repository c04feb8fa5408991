"""What decides a score beside the weights of its model: the constructor arguments of verifiers and what they hold."""

import inspect
from typing import Any

# Arguments that do not change a score, and why. Every other argument does: a new one counts without being listed.
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
    What takes a `model` counts by the files beside its weights too: the attribute `files_hash`.

    Raises AttributeError for an argument that is not kept as an attribute.
    """
    parameters = inspect.signature(type(built)).parameters
    settings = {name: getattr(built, name) for name in parameters if name not in NOT_SETTINGS}
    return settings | ({"files": built.files_hash} if "model" in parameters else {})
