"""Checks that an object has the members of a protocol."""

import inspect


def check_members(value: object, protocol: type, what: str) -> None:
    """Check that an object has every member of a protocol, and that its `facts` are complete.

    Raises:
        ValueError: Names `what`, the object's class and the member that is missing.
    """
    kind = f"{what} {type(value).__name__}"
    members = [name for name in vars(protocol) if not name.startswith("_")]
    for name in members:
        if inspect.getattr_static(value, name, None) is None and not hasattr(value, name):
            place = f"{protocol.__module__}.{protocol.__name__}"
            raise ValueError(f"Expected {kind} to have `{name}` (see {place}), but got none.")
    if "facts" in members:
        try:
            _ = value.facts  # type: ignore[attr-defined]
        except TypeError as error:
            raise ValueError(f"Expected {kind} to have complete `facts`, but got: {error}.") from error
