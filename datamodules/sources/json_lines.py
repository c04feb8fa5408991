"""Reads published json: lines of a file, and values of its fields as text and numbers."""

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Number (from 1) and object of each line of a file, plain or with gzip; the reason instead of an object for a line
    that holds none, and for a file that ends too early. Raises FileNotFoundError."""
    if not path.is_file():
        raise FileNotFoundError(f"Expected a list of recordings at `{path}`, but there is none.")
    number = 0
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        try:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, json_object(line)
        except (EOFError, OSError, zlib.error) as error:
            yield number + 1, f"a list that ends too early: {error}"


def json_object(content: bytes) -> dict[str, Any] | str:
    """The object in `content`, or the reason why there is none."""
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return "json that is not UTF-8"
    except (ValueError, RecursionError) as error:
        return f"not json: {error}"
    return found if isinstance(found, dict) else f"not a json object: {type(found).__name__}"


def field_text(record: Mapping[str, Any], *names: str) -> str:
    """The first of the named fields that is not empty, as text: speaker 0 is "0", and None, NaN, a list and a missing
    field are "". Half a surrogate pair becomes U+FFFD, which no text may hold."""
    for name in names:
        value = record.get(name)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        if isinstance(value, list | dict):  # of several texts, none is known to be the one spoken
            continue
        text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
        if re.search("[\ud800-\udfff]", text):
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if text.strip():
            return text
    return ""


def field_scores(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    """The named fields that hold finite numbers."""
    values = {name: record.get(name) for name in names}
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
