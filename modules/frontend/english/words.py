"""Abbreviations, titles, streets and Roman numerals as they are spoken; each a function of a rule's match."""

import re

from modules.frontend.english import tables
from modules.frontend.english.numbers import cardinal, ordinal, roman

SENTENCE_END = re.compile(r"[\"')\]]*\s*\Z")
CAPITALISED_BEFORE = re.compile(r"(?:[A-Z][\w'-]*|\d+(?:st|nd|rd|th)) \Z")
HOUSE_BEFORE = re.compile(r"(?:\b\d+\w? (?:[NSEW]\.? )?(?:[A-Z][\w'-]* )+|\d(?:st|nd|rd|th) )\Z")
NAME_AFTER = re.compile(r" (?:(?:and|&) (?:Mr|Mrs|Ms|Dr)\.|(?:[A-Z]\.? )?[A-Z][\w'])")


def stop(match: re.Match[str]) -> str:
    """The full stop that an abbreviation shares with its sentence."""
    return "." if match[0].endswith(".") and SENTENCE_END.match(match.string, match.end()) else ""


def title(match: re.Match[str]) -> str | None:
    """Dr. Smith, St. Paul; not 123 Elm Dr. Springfield."""
    short = match[1]
    if short in tables.STREETS and HOUSE_BEFORE.search(match.string, max(0, match.start() - 60), match.start()):
        return None
    if NAME_AFTER.match(match.string, match.end()):
        return tables.TITLES[short]
    return "doctor" + stop(match) if short == "Dr" and not street(match) else None


def street(match: re.Match[str]) -> str | None:
    if not CAPITALISED_BEFORE.search(match.string, max(0, match.start() - 40), match.start()):
        return None
    return tables.STREETS[match[1]] + stop(match)


def after_name(match: re.Match[str]) -> str:
    return tables.AFTER_NAMES[match[1]] + stop(match)


def before_number(match: re.Match[str]) -> str:
    spoken = tables.BEFORE_NUMBERS[match[1].lower()]
    return (spoken.capitalize() if match[1][0].isupper() else spoken) + " "


def anywhere(match: re.Match[str]) -> str:
    spoken = tables.ANYWHERE[match[0].lower()]
    return (spoken.capitalize() if match[0][0].isupper() else spoken) + stop(match)


def regnal(match: re.Match[str]) -> str | None:
    digits = roman(match[2])
    return f"{match[1]} the {ordinal(digits)}" if digits else None


def numbered(match: re.Match[str]) -> str | None:
    digits = roman(match[2])
    return f"{match[1]} {cardinal(digits)}" if digits else None
