"""Numbers with a unit, a fraction or a power as they are spoken; each a function of a rule's match."""

import re

from modules.frontend.english import tables
from modules.frontend.english.numbers import cardinal, decimal, number
from modules.frontend.english.words import stop
from modules.frontend.grammars import by_wetext


def vulgar(match: re.Match[str]) -> str | None:
    return by_wetext(f"{match[1]} {tables.VULGAR_FRACTIONS[match[2]]}".strip()) or None


def own_unit(match: re.Match[str]) -> str:
    one, many = tables.UNITS[match[2]]
    return f"{decimal(match[1])} {one if match[1] == '1' else many}{stop(match)}"


def wetext_unit(match: re.Match[str]) -> str | None:
    """The number in our words, the unit in wetext's."""
    unit = by_wetext(f"1 {match[2]}" if match[1] == "1" else f"2 {match[2]}").split(" ", 1)
    return f"{decimal(match[1])} {unit[1]}" if len(unit) == 2 else None


def feet_inches(match: re.Match[str]) -> str:
    return f"{cardinal(match[1])} foot {cardinal(match[2])}"


def power(match: re.Match[str]) -> str:
    """x², 10^6, 10⁻³."""
    base = number(match[1]) if match[1].isdigit() else match[1]
    written = match[2] or match[3].translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    named = {"2": "squared", "3": "cubed"}.get(written)
    return f"{base} {named or f'to the power of {exponent(written)}'}"


def exponent(written: str) -> str:
    return f"{'minus ' if written.startswith('-') else ''}{cardinal(written.strip('+-') or '0')}"


def scientific(match: re.Match[str]) -> str:
    return f"{number(match[1])} times ten to the power of {exponent(match[2])}"
