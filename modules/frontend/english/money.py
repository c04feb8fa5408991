"""Amounts of money as they are spoken; each a function of a rule's match."""

import re

from modules.frontend.english import tables
from modules.frontend.english.numbers import cardinal, decimal


def money(match: re.Match[str]) -> str:
    """$3.50 as "three dollars and fifty cents", $1.5 million, -£5, $5-10, $5/month, a $5 bill."""
    region = f"{tables.DOLLARS[match['region']]} " if match["region"] else ""
    first = f"{decimal(match['amount'])} to " if match["upto"] else ""
    last = match["upto"] or match["amount"]
    if match["kind"] is not None:
        words = f"{number_of(last, match['scale'])} {region}{tables.CURRENCIES[match['symbol']][0]}"
    else:
        words = amount(last, match["scale"], match["symbol"], region)
    return ("minus " if match["minus"] else "") + first + words + (" per" if match["per"] else "")


def number_of(written: str, scale: str | None) -> str:
    return decimal(written) + (f" {tables.SCALES.get(scale, scale)}" if scale else "")


def amount(written: str, scale: str | None, symbol: str, region: str = "") -> str:
    one, many, cent, cents = tables.CURRENCIES[symbol]
    whole_part, _, fraction = written.replace(",", "").partition(".")
    if scale or (fraction and (len(fraction) != 2 or not cent)):
        return f"{number_of(written, scale)} {region}{many}"
    units, hundredths = whole_part.lstrip("0"), fraction.lstrip("0")
    words = [f"{cardinal(units or '0')} {region}{one if units == '1' else many}"] if units or not hundredths else []
    if hundredths:
        words.append(f"{cardinal(hundredths)} {cent if hundredths == '1' else cents}")
    return " and ".join(words)


def money_behind(match: re.Match[str]) -> str:
    """10€, 5 USD, 50¢."""
    if match[2] == "¢":
        return f"{decimal(match[1])} {'cent' if match[1] == '1' else 'cents'}"
    symbol = tables.CODES.get(match[2], match[2])
    return amount(match[1], None, symbol, "US " if match[2] == "USD" else "")


def money_coded(match: re.Match[str]) -> str:
    """EUR 10."""
    return amount(match[2], None, tables.CODES[match[1]], "US " if match[1] == "USD" else "")
