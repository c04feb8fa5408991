"""The rules of English, in the order in which they claim their spans; what they leave of numbers goes to wetext.

A rule is a pattern and a function of its match: the words, or None to leave the span to later rules. Patterns take a
bounded number of steps per character: a text may be 100,000 characters of anything.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from modules.frontend.english import addresses, dates, measures, money, tables, words
from modules.frontend.english.numbers import cardinal, decade, decimal, number, one_by_one, ordinal, whole, year

Match = re.Match[str]
Rule = tuple[re.Pattern[str], Callable[[Match], str | None]]
Written = list[tuple[str, Callable[[Match], str | None]]]

NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+"
APART = r"(?<![\w.,])"  # no part of a word or number before
LABEL = r"[A-Za-z0-9-]{1,63}"


def any_of(written: Iterable[str]) -> str:
    """A pattern of any of these, longest first."""
    return "|".join(re.escape(form) for form in sorted(written, key=len, reverse=True))


def always(spoken: str) -> Callable[[Match], str]:
    return lambda match: spoken


@lru_cache(maxsize=2)
def rules(with_numbers: bool) -> tuple[Rule, ...]:
    """All rules, or those that a text without digits needs."""
    numeric = (code_rules(), date_rules(), money_rules()) if with_numbers else ()
    groups = (address_rules(), *numeric, word_rules(), number_rules() if with_numbers else [], sign_rules())
    return tuple((re.compile(pattern), function) for group in groups for pattern, function in group)


def address_rules() -> Written:
    return [
        (rf"(?<![\w.+-])[\w.+-]{{1,64}}@{LABEL}(?:\.{LABEL}){{1,8}}", addresses.address),
        (r"\b(?:https?://|www\.)[^\s<>\"]{1,2000}[\w/]", addresses.address),
        (
            rf"(?<![@\w.-])(?:{LABEL}\.){{1,8}}(?:{any_of(tables.TOP_DOMAINS)})\b(?:/[^\s<>\"]{{0,2000}}[\w/])?",
            addresses.address,
        ),
    ]


def code_rules() -> Written:
    return [
        (r"\b(0[xX])([0-9A-Fa-f]{1,16})\b", addresses.characters),
        (
            r"(?<!\w)(#)(?=[A-Fa-f]{0,5}\d)(?=\d{0,5}[A-Fa-f])([0-9A-Fa-f]{6}|[0-9A-Fa-f]{3})\b",
            addresses.characters,
        ),
        (r"(?<![\w+])\+\d{1,3}(?:[ .-]?\(?\d{1,4}+\)?){2,6}(?!\d)", addresses.digit_groups),
        (r"(?<![\w-])(?:1[ -])?\(\d{3}\) ?\d{3}[ .-]\d{4}\b", addresses.digit_groups),
        (r"(?<![\w-])(?:1-)?\d{3}([.-])\d{3}\1\d{4}\b(?!-)", addresses.digit_groups),
        (r"(?<![\w-])\d{3}-\d{2}-\d{4}\b(?!-)", addresses.digit_groups),
        (r"(?<![\w.-])\d{3}-\d{4}\b(?!-)", addresses.seven_digits),
        (r"(?<![\w-])(?<!\d )\d{4}(?:[ -]\d{4}){3}\b(?![ -]\d)", addresses.digit_groups),
        (r"(?<![\w.,-])0\d{2,4}(?: \d{3,4}){1,2}\b", addresses.digit_groups),
        (r"(?<=\b[Cc]all |\b[Dd]ial )\d{3}\b(?![-:.,/]\d)", addresses.digit_groups),
        (rf"(?<=\b(?:{'|'.join(tables.STATES)}) )\d{{5}}(?:-\d{{4}})?\b", addresses.digit_groups),
    ]


def date_rules() -> Written:
    short = any_of(tables.SHORT_MONTHS)
    month = rf"(?P<month>{any_of(tables.MONTHS)}|(?:{short})\b\.?)"
    numeric = (
        r"(?P<y>\d{4})-(?P<m>\d\d?)-(?P<d>\d\d?)|(?P<m2>\d\d?)(?P<sign>[/.-])(?P<d2>\d\d?)(?P=sign)(?P<y2>\d{4})"
        r"|(?P<m3>\d\d?)/(?P<d3>\d\d?)/(?P<y3>\d\d)"
    )
    return [
        (rf"(?<![\w/-])(?:{numeric})(?![\w/-]|\.\d)", dates.numeric_date),
        (
            rf"\b{month} (?P<day>\d\d?)(?:st|nd|rd|th)?\b(?:-(?P<upto>\d\d?)\b)?(?![:.%]\d)(?:,? (?P<year>\d{{4}})\b)?",
            dates.month_day,
        ),
        (
            rf"(?<![\w.,:-])(?P<the>[Tt]he )?(?P<day>\d\d?)(?:st|nd|rd|th)?(?: of)? {month}(?!\w)"
            r"(?:,? (?P<year>\d{4})\b)?",
            dates.day_month,
        ),
        (rf"\b((?:{short})\.)(?= \d)", dates.month_alone),
        (r"(?<![\d:.])(\d\d?)(?:[:.]([0-5]\d))? ?([AaPp])(?:\.? ?[Mm]\b\.?)(?!\w)", dates.clock),
        (r"(?<![\d:.])([01]?\d|2[0-3]):([0-5]\d)(?![\d:])", dates.clock_24),
        (r"(?<![\w/])([12]\d{3})/(\d\d)(?![\w/])", lambda match: f"{year(match[1])} {whole(match[2])}"),
        (r"(?<![\w.,$])'?(\d\d\d0|[1-9]0)'?s\b", lambda match: decade(match[1])),
        (
            r"(?<!\w)'(\d\d)\b(?![':])",
            lambda match: f"oh {cardinal(match[1])}" if match[1] < "10" else cardinal(match[1]),
        ),
    ]


def money_rules() -> Written:
    symbols = "".join(tables.CURRENCIES)
    codes = any_of(tables.CODES)
    return [
        (
            rf"(?P<minus>(?<!\w)-)?(?:\b(?P<region>{any_of(tables.DOLLARS)}))?(?P<symbol>[{symbols}]) ?"
            rf"(?P<amount>{NUMBER})(?:[kKmMbB]?-(?P=symbol)?(?P<upto>{NUMBER}))?"
            r"(?: ?(?P<scale>hundred|thousand|million|billion|trillion|mn|bn|tn|[kKmMbBT])\b)?"
            r"(?:(?P<per>/(?=[a-z]))|(?P<kind>(?=-a-| (?:bill|note|coin)s?\b)))?",
            money.money,
        ),
        (rf"{APART}({NUMBER}) ?([{symbols}¢]|(?:{codes})\b)", money.money_behind),
        (rf"\b({codes}) ?({NUMBER})", money.money_coded),
    ]


def word_rules() -> Written:
    regnal = any_of(tables.REGNAL_NAMES)
    behind_weekday = any_of(("morning", "afternoon", "evening", "night", *tables.MONTHS))
    return [
        (rf"\b((?:{any_of(tables.ALONE)})\.)(?!\w)", dates.month_alone),
        (rf"\b({any_of(tables.WEEKDAYS)})\.(?=[,-]| \d| (?:{behind_weekday}))", dates.weekday),
        (rf"(?<![\w/])(?:{any_of(tables.SET_PHRASES)})(?![\w/])", lambda match: tables.SET_PHRASES[match[0]]),
        (rf"\b({any_of(tables.TITLES)})\.", words.title),
        (rf"\b({any_of(tables.STREETS)})\.(?!\w)", words.street),
        (rf"(?<=[\w,] )({any_of(tables.AFTER_NAMES)})\.(?!\w)", words.after_name),
        (rf"(?i)\b({any_of(tables.BEFORE_NUMBERS)})\. ?(?=#?\d)", words.before_number),
        (rf"(?i)(?<![\w.])(?:{any_of(tables.ANYWHERE)})(?!\w)", words.anywhere),
        (rf"\b({regnal}) ([IVX]{{2,5}}|[VX])\b(?!\. ?\w)", words.regnal),
        (rf"\b({regnal}) (I)\b(?='s| of\b| was\b| ruled\b| reigned\b| died\b)", words.regnal),
        (rf"\b({any_of(tables.NUMBERED)}) ([IVX]|[IVXL]{{2,7}})\b(?!')", words.numbered),
    ]


def number_rules() -> Written:
    products = any_of(tables.RELEASED)
    return [
        (r"(?<![\w.])([vV])?(\d+(?:\.\d+){2,})(?!\d)", addresses.version),
        (r"(?<![\w.])([vV])(\d+(?:\.\d+)?)(?!\w)", addresses.version),
        (rf"\b((?:{products}) )(\d+\.\d+)(?![\w.]\w)", addresses.release),
        (r"(?<![\w.])(\d+)'(\d+)(?:\"|'')?(?!\w)", measures.feet_inches),
        (rf"{APART}({NUMBER}) ?[x×] ?(?=\d)", lambda match: f"{number(match[1])} by"),
        (rf"{APART}({NUMBER})[x×](?!\w)", lambda match: f"{decimal(match[1])} times"),
        (rf"(?<!\d)(\d{{0,15}}) ?([{''.join(tables.VULGAR_FRACTIONS)}])", measures.vulgar),
        (rf"{APART}({NUMBER})[ -]?({any_of(tables.UNITS)})(?![\w/²³-])", measures.own_unit),
        (rf"{APART}({NUMBER})[ -]?({any_of(tables.WETEXT_UNITS)})(?![\w/²³])", measures.wetext_unit),
        (rf"{APART}({NUMBER}) ?%", lambda match: f"{decimal(match[1])} percent"),
        (r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})\b", measures.scientific),
        (r"\b([A-Za-z]{1,2}|\d+)(?:\^([+-]?\d{1,9})\b|([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]{1,9}))", measures.power),
        (r"(?<![\w.-])\d+(?:-\d+){2,}(?![\w-])", addresses.hyphenated),
    ]


def sign_rules() -> Written:
    """Signs between and before numbers, then numbers that wetext mistakes."""
    return [
        (r"(?<=\d) - (?=\d+(?:\.\d+)? ?=)", always("minus")),
        (r"(?<=[\d%])(?: - |-)(?=\d)|(?<=[ap]m|[AP]M|m\.|st|nd|rd|th)(?: - |-)(?=\d)", always("to")),
        (r"(?<![^\s(\[\"'])-(?=\.?\d)", always("minus")),
        (r"(?<=\d)-(year|month|week|day)-old\b", lambda match: f"{match[1]} old"),
        (r"(?<=[A-Za-z])-(?=\d)|(?<=\d)-(?=[A-Za-z])", always(" ")),
        (r"(?<=[\d)])(?: ?\* ?|×)(?=[\d(])", always("times")),
        (r"(?<=\d) ?> ?(?=-?\d)|(?<=\w) > (?=-?\d)", always("is greater than")),
        (r"(?<=\d) ?< ?(?=-?\d)|(?<=\w) < (?=-?\d)", always("is less than")),
        (r"(?<!\S)<(?= ?\d)", always("less than")),
        (r"(?<!\S)>(?= ?\d)", always("more than")),
        (r"~(?=\d)", always("about")),
        (r"(?<=\w)[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", always("")),  # a footnote's mark
        (r"(?<!\w)#(?=[A-Za-z])", always("hashtag")),
        (r"(?<=\b[A-G])#(?!\w)", always("sharp")),
        (rf"[{re.escape(''.join(tables.SYMBOLS))}]", lambda match: tables.SYMBOLS[match[0]]),
        (r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?:st|nd|rd|th)\b", lambda match: ordinal(match[0][:-2])),
        (r"\d{16,}", lambda match: one_by_one(match[0])),
        (r"(?<![\d.,])(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d*\.\d+)(?!\d)", lambda match: decimal(match[0])),
        (r"(?<![\d:/])(?:\d{4}|0\d+)(?!\d|[:/]\d|st|nd|rd|th)", lambda match: whole(match[0])),
    ]
