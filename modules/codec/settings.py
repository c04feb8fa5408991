"""Settings of a codec's parts that no weight shows. A fingerprint holds them beside the weights."""

from typing import Any


def unusual(part: Any, **usual: Any) -> str:
    """ " name=value" for each attribute of `part` that differs from the usual value; "" where none does.

    Usual are the defaults and what all our recipes have in common. They leave no trace, so that files which were
    written before settings counted keep their fingerprint, and with it their token shards and language models.
    """
    found = {name: getattr(part, name) for name, value in usual.items() if getattr(part, name) != value}
    return "".join(f" {name}={value}" for name, value in found.items())
