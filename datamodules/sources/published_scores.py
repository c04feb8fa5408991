"""Reading of numbers that a corpus publishes of its recordings."""

import math


def score(name: str, value: str) -> dict[str, float]:
    """{name: number}; {} if `value` is no finite number."""
    try:
        number = float(value)
    except ValueError:
        return {}
    return {name: number} if math.isfinite(number) else {}
