"""Objects from their descriptions in checkpoints: jsonargparse's {class_path, init_args}."""

import importlib
from typing import Any

from modules.moved_names import current_name


def instantiate(value: Any, package: str, parent: type = object) -> Any:
    """The object that a description names, with its arguments built in the same way; any other value as it is.

    Args:
        package: Name of the only package whose classes are built, such as `modules.lm`: a checkpoint is data of others.
        parent: What the classes derive from.

    Raises ValueError for anything else, which is not imported.
    """
    if isinstance(value, dict) and "class_path" in value:
        module, _, name = current_name(value["class_path"]).rpartition(".")
        kind = getattr(importlib.import_module(module), name, None) if module.startswith(f"{package}.") else None
        if not (isinstance(kind, type) and issubclass(kind, parent)):
            raise ValueError(f"Expected descriptions of classes of {package}, but got {value['class_path']}.")
        arguments = {key: instantiate(item, package, parent) for key, item in (value.get("init_args") or {}).items()}
        return kind(**arguments)
    return [instantiate(item, package, parent) for item in value] if isinstance(value, list) else value
