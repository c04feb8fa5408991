"""Web and mail addresses, telephone numbers, codes and versions as spoken; each a function of a rule's match."""

import re

from modules.frontend.english import tables
from modules.frontend.english.numbers import cardinal, number, one_by_one


def address(match: re.Match[str]) -> str:
    """A web or mail address, part by part, without its scheme."""
    words = []
    for part in re.findall(r"[^\W\d_]+|\d+|.", re.sub(r"^https?://", "", match[0]).rstrip("/")):
        words.append(number(part) if part.isdigit() else tables.IN_ADDRESSES.get(part, part))
    return " ".join(words)


def digit_groups(match: re.Match[str]) -> str:
    """A telephone or card number: digits one by one, a comma between groups."""
    plus = "plus " if match[0].startswith("+") else ""
    return plus + ", ".join(
        "eight hundred" if group == "800" else one_by_one(group) for group in re.findall(r"\d+", match[0])
    )


def seven_digits(match: re.Match[str]) -> str | None:
    """555-0123; a range of round numbers (500-1000) is none."""
    return None if match[0].endswith("00") else digit_groups(match)


def characters(match: re.Match[str]) -> str:
    """Of a hexadecimal code."""
    prefix = {"0x": "zero x ", "#": "hash "}[match[1].lower()]
    return prefix + " ".join(one_by_one(sign) if sign.isdigit() else sign.upper() for sign in match[2])


def hyphenated(match: re.Match[str]) -> str:
    """1-2-3, 4-4-2 as numbers; longer ones (an ISBN) digit by digit."""
    groups = match[0].split("-")
    return ", ".join(map(cardinal, groups)) if max(map(len, groups)) < 3 else digit_groups(match)


def version(match: re.Match[str]) -> str:
    """2.0.1, v2.0, and the four numbers of a network address."""
    parts = match[2].split(".")
    spoken = (one_by_one(part) if len(part) > 2 else cardinal(part) for part in parts)
    return ("version " if match[1] else "") + (" dot " if len(parts) == 4 else " point ").join(spoken)


def release(match: re.Match[str]) -> str:
    """Python 3.11: the second part is a number, not a fraction."""
    return match[1] + " point ".join(cardinal(part) for part in match[2].split("."))
