"""Grammars of other packages: wetext's for English, nemo_text_processing's for other languages; each loaded once."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

CACHE = Path(__file__).resolve().parents[2] / "cache" / "nemo_text_processing"
WORDS = re.compile(r"[A-Za-z' -]+")


@lru_cache(maxsize=1)
def wetext_normalizer() -> Any:
    """Raises ImportError with the install command without wetext."""
    try:
        from wetext import Normalizer
    except ImportError as error:
        raise ImportError("English numbers and abbreviations need wetext: pip install wetext") from error
    return Normalizer(lang="en", operator="tn")


@lru_cache(maxsize=4096)
def by_wetext(written: str) -> str:
    """Words of one number, time or measure; empty if wetext's grammars have none."""
    normalizer = wetext_normalizer()
    try:
        spoken = normalizer.normalize(written)
    except (AssertionError, RuntimeError):  # no path through the grammar
        return ""
    return spoken if WORDS.fullmatch(spoken) else ""


@lru_cache(maxsize=8)
def nemo_normalizer(language: str) -> Any:
    """The grammars of a language, compiled on first use (minutes) and cached; None without them or the package."""
    try:
        from nemo_text_processing.text_normalization.normalize import Normalizer
    except ImportError:
        return None
    try:
        return Normalizer(input_case="cased", lang=language, cache_dir=str(CACHE))
    except (NotImplementedError, UnboundLocalError, AttributeError):  # it has no such language
        return None
