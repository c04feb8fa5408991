"""Instantiates objects from their descriptions in checkpoints: jsonargparse's {class_path, init_args}."""

import importlib
from typing import Any

from modules.moved_names import current_name


def instantiate(value: Any, package: str, parent: type = object) -> Any:
    """Instantiate a description, with its arguments built in the same way; return any other value unchanged.

    Args:
        package: The only package whose classes are instantiated, such as `modules.lm`: checkpoints may be untrusted.
        parent: Required base class.

    Raises ValueError for anything else, without importing it.
    """
    if isinstance(value, dict) and "class_path" in value:
        module, _, name = current_name(value["class_path"]).rpartition(".")
        kind = getattr(importlib.import_module(module), name, None) if module.startswith(f"{package}.") else None
        if not (isinstance(kind, type) and issubclass(kind, parent)):
            raise ValueError(f"Expected descriptions of classes of {package}, but got {value['class_path']}.")
        arguments = {key: instantiate(item, package, parent) for key, item in (value.get("init_args") or {}).items()}
        return kind(**arguments)
    return [instantiate(item, package, parent) for item in value] if isinstance(value, list) else value
