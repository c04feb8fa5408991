"""Settings that determine a score besides a model's weights: the constructor arguments of verifiers and recognisers."""

import inspect
from typing import Any

# Arguments that do not change a score, with reasons. All others do: a new argument counts without being listed.
NOT_SETTINGS = {
    "name": "column name, under which scores are stored",
    "model": "location of the files; `model_hash` and `files_hash` identify them",
    "weights": "location of a file, likewise",
    "families": "a label in reports",
    "device": "affects speed only",
    "batch_size": "affects speed only: a batch gives the same results as single clips",
    "num_workers": "affects speed only",
    "cpu_threads": "affects speed only",
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
