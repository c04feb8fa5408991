"""Settings of a codec's parts that do not show in the weights. Fingerprints include them."""

from typing import Any


def unusual(part: Any, **usual: Any) -> str:
    """Return " name=value" for each attribute of `part` that differs from its usual value; "" if none does.

    Usual values are the defaults and those common to all recipes. They are omitted, so that files written before
    settings were part of the fingerprint keep it, and with it their token shards and language models.
    """
    found = {name: getattr(part, name) for name, value in usual.items() if getattr(part, name) != value}
    return "".join(f" {name}={value}" for name, value in found.items())
