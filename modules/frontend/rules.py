"""Spoken forms of what English writes in signs, rule by rule; the first rule that takes a span has it.

A rule is a pattern and a function of its match: the words, or None to leave the span to later rules. What is left of
numbers goes to wetext's grammars.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from modules.frontend import abbreviations as table
from modules.frontend.grammars import by_wetext
from modules.frontend.numbers import cardinal, decade, decimal, one_by_one, ordinal, roman, whole, year

Match = re.Match[str]
Rule = tuple[re.Pattern[str], Callable[[Match], str | None]]

NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+"
MONTH = rf"(?P<month>{'|'.join(table.MONTHS)}|(?:{'|'.join(table.SHORT_MONTHS)})\b\.?)"
SENTENCE_END = re.compile(r"[\"')\]]*\s*\Z")
CAPITALISED_BEFORE = re.compile(r"(?:[A-Z][\w'-]*|\d+(?:st|nd|rd|th)) \Z")
HOUSE_BEFORE = re.compile(r"(?:\b\d+\w? (?:[NSEW]\.? )?(?:[A-Z][\w'-]* )+|\d(?:st|nd|rd|th) )\Z")
NAME_AFTER = re.compile(r" (?:[A-Z]\.? )?[A-Z][\w']")


def alternatives(words: "list[str] | dict[str, str] | tuple[str, ...]") -> str:
    """A pattern of any of the words, longest first."""
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


def number(written: str) -> str:
    """A number with or without fraction; 1500 as "fifteen hundred", 1,500 as "one thousand five hundred"."""
    return decimal(written) if "." in written or "," in written else whole(written)


def quantity(written: str) -> str:
    """As `number`, without years and leading zeros: of what can be counted."""
    return decimal(written)


def stop(match: Match) -> str:
    """The full stop that an abbreviation shares with its sentence."""
    return "." if match[0].endswith(".") and SENTENCE_END.match(match.string, match.end()) else ""


# --- addresses, telephone numbers and codes ---


def address(match: Match) -> str:
    """A web or mail address, part by part, without its scheme."""
    words = []
    for part in re.findall(r"[^\W\d_]+|\d+|.", re.sub(r"^https?://", "", match[0]).rstrip("/")):
        words.append(number(part) if part.isdigit() else table.IN_ADDRESSES.get(part, part))
    return " ".join(words)


def digit_groups(match: Match) -> str:
    """A telephone or card number: digits one by one, a comma between groups."""
    plus = "plus " if match[0].startswith("+") else ""
    return plus + ", ".join(
        "eight hundred" if group == "800" else one_by_one(group) for group in re.findall(r"\d+", match[0])
    )


def seven_digits(match: Match) -> str | None:
    """555-0123; a range of round numbers (500-1000) is none."""
    return None if match[0].endswith("00") else digit_groups(match)


def characters(match: Match) -> str:
    """Of a hexadecimal code."""
    prefix = {"0x": "zero x ", "#": "hash "}[match[1].lower()]
    return prefix + " ".join(one_by_one(sign) if sign.isdigit() else sign.upper() for sign in match[2])


def version(match: Match) -> str:
    point = " dot " if match[0].count(".") == 3 else " point "
    words = point.join(cardinal(part) for part in match[2].split("."))
    return f"version {words}" if match[1] else words


def release(match: Match) -> str:
    """Python 3.11: the second part is a number, not a fraction."""
    return match[1] + " point ".join(cardinal(part) for part in match[2].split("."))


# --- dates and times ---


def calendar_day(month: str, day: str, years: str | None) -> str:
    return f"{month} {ordinal(day)}" + (f", {year(years)}" if years else "")


def numeric_date(match: Match) -> str | None:
    """2024-05-17, or 5/17/2024: the month comes first unless it is above 12."""
    years, month, day = (match["y"], match["m"], match["d"]) if match["y"] else (match["y2"], match["m2"], match["d2"])
    if int(month) > 12:
        month, day = day, month
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return None
    years = f"{20 if int(years) < 70 else 19}{years}" if len(years) == 2 else years
    return calendar_day(table.MONTHS[int(month) - 1], str(int(day)), years)


def full_month(written: str) -> str:
    name = written.rstrip(".")
    return table.SHORT_MONTHS.get(name, name)


def month_day(match: Match) -> str | None:
    if not 1 <= int(match["day"]) <= 31:
        return None
    return calendar_day(full_month(match["month"]), match["day"], match["year"])


def day_month(match: Match) -> str | None:
    if not 1 <= int(match["day"]) <= 31:
        return None
    spoken = f"{match['the'] or 'the '}{ordinal(match['day'])} of {full_month(match['month'])}"
    return spoken + (f" {year(match['year'])}" if match["year"] else "")


def month_alone(match: Match) -> str:
    return full_month(match[1]) + stop(match)


def clock(match: Match) -> str | None:
    """7:30 p.m., 7pm: hour, minutes, AM or PM."""
    hour, minutes = int(match[1]), match[2]
    if hour > 23:
        return None
    return f"{cardinal(match[1])}{minutes_words(minutes)} {match[3].upper()}M{stop(match)}"


def minutes_words(minutes: str | None) -> str:
    if minutes is None or minutes == "00":
        return ""
    return f" {'oh ' if minutes.startswith('0') else ''}{cardinal(minutes)}"


def clock_24(match: Match) -> str | None:
    """What wetext mistakes: 00:05, 17:00, 7:05."""
    hour, minutes = match[1], match[2]
    if minutes == "00" and int(hour) > 12:
        return f"{cardinal(hour)} hundred"
    if minutes.startswith("0") and minutes != "00":
        return f"{cardinal(hour)} oh {cardinal(minutes)}"
    return None


# --- money ---


def money(match: Match) -> str:
    """$3.50 as "three dollars and fifty cents", $1.5 million, -£5, $5-10, $5/month."""
    sign = "minus " if match["minus"] else ""
    region = f"{table.DOLLARS[match['region']]} " if match["region"] else ""
    words = amount(match["amount"], match["scale"], match["symbol"], region)
    if match["upto"]:
        words = f"{decimal(match['amount'])} to {amount(match['upto'], match['scale'], match['symbol'], region)}"
    return sign + words + (" per" if match["per"] else "")


def number_of(written: str, scale: str | None) -> str:
    return decimal(written) + (f" {table.SCALES.get(scale, scale)}" if scale else "")


def amount(written: str, scale: str | None, symbol: str, region: str = "") -> str:
    one, many, cent, cents = table.CURRENCIES[symbol]
    whole_part, _, fraction = written.replace(",", "").partition(".")
    if scale or (fraction and (len(fraction) != 2 or not cent)):
        return f"{number_of(written, scale)} {region}{many}"
    units, hundredths = int(whole_part or "0"), int(fraction or "0")
    words = [f"{cardinal(str(units))} {region}{one if units == 1 else many}"] if units or not hundredths else []
    if hundredths:
        words.append(f"{cardinal(str(hundredths))} {cent if hundredths == 1 else cents}")
    return " and ".join(words)


def money_behind(match: Match) -> str:
    """10€, 5 USD, 50¢."""
    if match[2] == "¢":
        return f"{decimal(match[1])} {'cent' if match[1] == '1' else 'cents'}"
    symbol = table.CODES.get(match[2], match[2])
    return amount(match[1], None, symbol, "US " if match[2] == "USD" else "")


def money_coded(match: Match) -> str:
    """EUR 10."""
    return amount(match[2], None, table.CODES[match[1]], "US " if match[1] == "USD" else "")


# --- words ---


def title(match: Match) -> str | None:
    """Dr. Smith, St. Paul; not 123 Elm Dr. Springfield."""
    short = match[1]
    if short in table.STREETS and HOUSE_BEFORE.search(match.string, max(0, match.start() - 60), match.start()):
        return None
    return table.TITLES[short] if NAME_AFTER.match(match.string, match.end()) else None


def street(match: Match) -> str | None:
    if not CAPITALISED_BEFORE.search(match.string, max(0, match.start() - 40), match.start()):
        return None
    return table.STREETS[match[1]] + stop(match)


def after_name(match: Match) -> str:
    return table.AFTER_NAMES[match[1]] + stop(match)


def before_number(match: Match) -> str:
    spoken = table.BEFORE_NUMBERS[match[1].lower()]
    return (spoken.capitalize() if match[1][0].isupper() else spoken) + " "


def anywhere(match: Match) -> str:
    spoken = table.ANYWHERE[match[0].lower()]
    return (spoken.capitalize() if match[0][0].isupper() else spoken) + stop(match)


def weekday(match: Match) -> str:
    return table.WEEKDAYS[match[1]]


def regnal(match: Match) -> str | None:
    digits = roman(match[2])
    return f"{match[1]} the {ordinal(digits)}" if digits else None


def numbered(match: Match) -> str | None:
    digits = roman(match[2])
    return f"{match[1]} {cardinal(digits)}" if digits else None


# --- numbers with something ---


def vulgar(match: Match) -> str:
    return by_wetext(f"{match[1]} {table.VULGAR_FRACTIONS[match[2]]}".strip())


def own_unit(match: Match) -> str:
    one, many = table.UNITS[match[2]]
    return f"{quantity(match[1])} {one if match[1] == '1' else many}{stop(match)}"


def wetext_unit(match: Match) -> str | None:
    """The number in our words, the unit in wetext's."""
    unit = by_wetext(f"1 {match[2]}" if match[1] == "1" else f"2 {match[2]}").split(" ", 1)
    return f"{quantity(match[1])} {unit[1]}" if len(unit) == 2 else None


def feet_inches(match: Match) -> str:
    return f"{cardinal(match[1])} foot {cardinal(match[2])}"


def power(match: Match) -> str:
    if match[2] in "²³":
        return f"{match[1]} {table.SYMBOLS[match[2]]}"
    sign = "minus " if match[2].startswith("-") else ""
    return f"{number(match[1])} to the power of {sign}{cardinal(match[2].lstrip('+-'))}"


def scientific(match: Match) -> str:
    sign = "minus " if match[2].startswith("-") else ""
    return f"{number(match[1])} times ten to the power of {sign}{cardinal(match[2].lstrip('+-'))}"


def four_digits(match: Match) -> str | None:
    return whole(match[0]) if len(match[0]) == 4 or (match[0].startswith("0") and len(match[0]) > 1) else None


def constant(words: str) -> Callable[[Match], str]:
    return lambda match: words


@lru_cache(maxsize=1)
def rules() -> tuple[Rule, ...]:
    """The rules in the order in which they claim their spans."""
    domains = alternatives(tuple(table.TOP_DOMAINS))
    symbols = "".join(re.escape(symbol) for symbol in table.CURRENCIES)
    label = r"[A-Za-z0-9-]{1,63}"
    pairs: tuple[tuple[str, Callable[[Match], str | None]], ...] = (
        (rf"(?<![\w.+-])[\w.+-]{{1,64}}@{label}(?:\.{label}){{1,8}}", address),
        (r"\b(?:https?://|www\.)[^\s<>\"]{1,2000}[\w/]", address),
        (rf"(?<![@\w.-])(?:{label}\.){{1,8}}(?:{domains})\b(?:/[^\s<>\"]{{0,2000}}[\w/])?", address),
        (r"\b(0x)([0-9A-Fa-f]{1,16})\b", characters),
        (r"(?<!\w)(#)(?=[0-9A-Fa-f]*\d)(?=[0-9A-Fa-f]*[A-Fa-f])([0-9A-Fa-f]{6}|[0-9A-Fa-f]{3})\b", characters),
        (r"(?<![\w+])\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){1,6}\b", digit_groups),
        (r"(?<![\w-])(?:1[ -])?\(\d{3}\) ?\d{3}[ .-]\d{4}\b", digit_groups),
        (r"(?<![\w-])(?:1-)?\d{3}([.-])\d{3}\1\d{4}\b(?!-)", digit_groups),
        (r"(?<![\w-])\d{3}-\d{2}-\d{4}\b(?!-)", digit_groups),
        (r"(?<![\w.-])\d{3}-\d{4}\b(?!-)", seven_digits),
        (r"(?<![\w-])\d{4}(?:[ -]\d{4}){3}\b", digit_groups),
        (r"(?<![\w.,-])0\d{2,4}(?: \d{3,4}){1,2}\b", digit_groups),
        (r"(?<=\b[A-Z]{2} )\d{5}(?:-\d{4})?\b", digit_groups),
        (
            r"(?<![\w/-])(?:(?P<y>\d{4})-(?P<m>\d\d?)-(?P<d>\d\d?)"
            r"|(?P<m2>\d\d?)(?P<sign>[/.-])(?P<d2>\d\d?)(?P=sign)(?P<y2>\d{4}|\d\d))(?![\w/-]|\.\d)",
            numeric_date,
        ),
        (rf"\b{MONTH} (?P<day>\d\d?)(?:st|nd|rd|th)?\b(?![:.]\d)(?:,? (?P<year>\d{{4}})\b)?", month_day),
        (
            rf"\b(?P<the>[Tt]he )?(?P<day>\d\d?)(?:st|nd|rd|th)?(?: of)? {MONTH}(?!\w)(?:,? (?P<year>\d{{4}})\b)?",
            day_month,
        ),
        (rf"\b((?:{'|'.join(table.SHORT_MONTHS)})\.)(?= \d)", month_alone),
        (
            rf"\b({'|'.join(table.ALONE)})\.(?!\w)",
            lambda match: (table.WEEKDAYS | table.SHORT_MONTHS)[match[1]] + stop(match),
        ),
        (
            rf"\b({'|'.join(table.WEEKDAYS)})\.(?=,| \d| (?:morning|afternoon|evening|night|{'|'.join(table.MONTHS)}))",
            weekday,
        ),
        (r"(?<![\d:.])(\d\d?)(?::([0-5]\d))? ?([AaPp])(?:\.? ?[Mm]\b\.?)(?!\w)", clock),
        (r"(?<![\d:.])([01]?\d|2[0-3]):([0-5]\d)(?![\d:])", clock_24),
        (
            rf"(?P<minus>(?<!\w)-)?(?:\b(?P<region>{alternatives(tuple(table.DOLLARS))}))?(?P<symbol>[{symbols}]) ?"
            rf"(?P<amount>{NUMBER})(?:-(?P=symbol)?(?P<upto>{NUMBER}))?"
            r"(?: ?(?P<scale>hundred|thousand|million|billion|trillion|mn|bn|tn|[kKmMbBT])\b)?(?P<per>/(?=[a-z]))?",
            money,
        ),
        (rf"(?<![\w.,])({NUMBER}) ?([{symbols}¢]|(?:{'|'.join(table.CODES)})\b)", money_behind),
        (rf"\b({'|'.join(table.CODES)}) ?({NUMBER})", money_coded),
        (rf"(?<![\w/])(?:{alternatives(table.SET_PHRASES)})(?![\w/])", lambda match: table.SET_PHRASES[match[0]]),
        (r"(?<![\w.,$])'?(\d\d(?:\d0)|[2-9]0)'?s\b", lambda match: decade(match[1])),
        (r"(?<!\w)'(\d\d)\b(?![':])", lambda match: whole(match[1])),
        (r"(?<![\w.])([vV])?(\d+(?:\.\d+){2,})(?![\w])", version),
        (r"(?<![\w.])([vV])(\d+(?:\.\d+)?)(?![\w])", version),
        (
            r"\b((?:[Vv]ersion|[Rr]elease|Python|Ubuntu|iOS|Android|macOS|CUDA|Node|Java|Chapter|Section|Figure|Table) )(\d+\.\d+)(?![\w.])",
            release,
        ),
        (r"(?<![\w.])(\d+)'(\d+)(?:\"|'')?(?!\w)", feet_inches),
        (rf"(?<![\w.,])({NUMBER}) ?[x×] ?(?=\d)", lambda match: f"{number(match[1])} by "),
        (rf"(?<![\w.,])({NUMBER})x\b", lambda match: f"{decimal(match[1])} times"),
        (rf"\b({alternatives(table.TITLES)})\.", title),
        (rf"\b({alternatives(table.STREETS)})\.(?!\w)", street),
        (rf"(?<=[\w,] )({alternatives(table.AFTER_NAMES)})\.(?!\w)", after_name),
        (rf"\b({alternatives(table.BEFORE_NUMBERS)})\. ?(?=#?\d)", before_number),
        (rf"(?<![\w.])(?:{alternatives(table.ANYWHERE)})(?!\w)", anywhere),
        (rf"\b({'|'.join(table.REGNAL_NAMES)}) ([IVX]{{2,5}}|[VX])\b(?!\.\w)", regnal),
        (rf"\b({'|'.join(table.REGNAL_NAMES)}) (I)\b(?='s| of\b| was\b| ruled\b| reigned\b| died\b)", regnal),
        (rf"\b({'|'.join(table.NUMBERED)}) ([IVXLC]{{1,7}})\b(?!')", numbered),
        (rf"(\d+|(?<!\d))([{''.join(table.VULGAR_FRACTIONS)}])", vulgar),
        (rf"(?<![\w.,])({NUMBER}) ?({alternatives(table.UNITS)})(?![\w/²³])", own_unit),
        (rf"(?<![\w.,])({NUMBER})[ -]?({alternatives(table.WETEXT_UNITS)})(?![\w/²³])", wetext_unit),
        (rf"(?<![\w.,])({NUMBER}) ?%", lambda match: f"{decimal(match[1])} percent"),
        (r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})\b", scientific),
        (r"\b(\w+)\^([+-]?\d{1,9})\b", power),
        (r"\b([A-Za-z]|\d+)([²³])", power),
        (r"(?<=\d) - (?=\d+(?:\.\d+)? ?=)", constant(" minus ")),
        (r"(?<![\w.-])\d{1,3}(?:-\d{1,3}){2,}(?![\w-])", lambda match: ", ".join(map(cardinal, match[0].split("-")))),
        (r"(?<=[\d%])(?: - |-)(?=\d)|(?<=\d[ap]m)(?: - |-)(?=\d)", constant(" to ")),
        (r"(?<![^\s(\[\"'])-(?=\.?\d)", constant("minus")),
        (r"(?<=[A-Za-z])-(?=\d)|(?<=\d)-(?=[A-Za-z])", constant(" ")),
        (r"(?<=[\d)])(?: ?\* ?|×)(?=[\d(])", constant("times")),
        (r"(?<=\d) ?> ?(?=-?\d)|(?<=\w) > (?=-?\d)", constant(" is greater than ")),
        (r"(?<=\d) ?< ?(?=-?\d)|(?<=\w) < (?=-?\d)", constant(" is less than ")),
        (r"~(?=\d)", constant("about")),
        (r"(?<!\w)#(?=\d)", constant("number")),
        (r"(?<!\w)#(?=[A-Za-z])", constant("hashtag")),
        (r"(?<=\b[A-G])#(?!\w)", constant("sharp")),
        (r"[&@%#+=×÷±≈≥≤≠§№©®™°²³¢µ$£€¥₹₩₽₿]", lambda match: table.SYMBOLS.get(match[0], "")),
        (r"\d{16,}", lambda match: one_by_one(match[0])),
        (r"(?<![\d.,])(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d*\.\d+)(?!\d)", lambda match: decimal(match[0])),
        (r"(?<![\d:/])(?:\d{4}|0\d+)(?!\d|[:/]\d|st|nd|rd|th|/\d)", four_digits),
    )
    return tuple(
        (re.compile(pattern, re.IGNORECASE if function in (before_number, anywhere) else 0), function)
        for pattern, function in pairs
    )
