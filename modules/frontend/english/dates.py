"""Dates and times of day as they are spoken; each a function of a rule's match, None to leave it to later rules."""

import re

from modules.frontend.english import tables
from modules.frontend.english.numbers import cardinal, ordinal, year
from modules.frontend.english.words import stop

NUMERIC = (("y", "m", "d"), ("y2", "m2", "d2"), ("y3", "m3", "d3"))


def numeric_date(match: re.Match[str]) -> str | None:
    """2024-05-17, or 5/17/2024: the month comes first unless it is above 12."""
    years, month, day = next(match.group(*names) for names in NUMERIC if match[names[0]])
    if int(month) > 12:
        month, day = day, month
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return None
    years = f"{20 if int(years) < 70 else 19}{years}" if len(years) == 2 else years
    return f"{tables.MONTHS[int(month) - 1]} {ordinal(str(int(day)))}, {year(years)}"


def full_month(written: str) -> str:
    name = written.rstrip(".")
    return tables.SHORT_MONTHS.get(name) or tables.WEEKDAYS.get(name, name)


def month_day(match: re.Match[str]) -> str | None:
    """May 17, 2024; Jan. 3-5."""
    if not 1 <= int(match["day"]) <= 31:
        return None
    upto = f" to {ordinal(match['upto'])}" if match["upto"] else ""
    years = f", {year(match['year'])}" if match["year"] else ""
    return f"{full_month(match['month'])} {ordinal(match['day'])}{upto}{years}"


def day_month(match: re.Match[str]) -> str | None:
    """17 May 2024, the 4th of July."""
    if not 1 <= int(match["day"]) <= 31:
        return None
    spoken = f"{match['the'] or 'the '}{ordinal(match['day'])} of {full_month(match['month'])}"
    return spoken + (f" {year(match['year'])}" if match["year"] else stop(match))


def month_alone(match: re.Match[str]) -> str:
    return full_month(match[1]) + stop(match)


def clock(match: re.Match[str]) -> str | None:
    """7:30 p.m., 7pm: hour, minutes, AM or PM."""
    hour, minutes = int(match[1]), match[2]
    if hour > 23:
        return None
    return f"{cardinal(match[1])}{minutes_words(minutes)} {match[3].upper()}M{stop(match)}"


def minutes_words(minutes: str | None) -> str:
    if minutes is None or minutes == "00":
        return ""
    return f" {'oh ' if minutes.startswith('0') else ''}{cardinal(minutes)}"


def clock_24(match: re.Match[str]) -> str | None:
    """What wetext mistakes: 00:05, 17:00, 7:05."""
    hour, minutes = match[1], match[2]
    if minutes == "00" and int(hour) > 12:
        return f"{cardinal(hour)} hundred"
    if minutes.startswith("0") and minutes != "00":
        return f"{cardinal(hour)} oh {cardinal(minutes)}"
    return None


def weekday(match: re.Match[str]) -> str:
    return tables.WEEKDAYS[match[1]]


def short_year(match: re.Match[str]) -> str:
    """'69, '05."""
    return f"oh {cardinal(match[1])}" if match[1].startswith("0") else cardinal(match[1])
