"""English numbers as words: cardinals, ordinals, years, digits one by one, decimals, Roman numerals."""

import re

ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES = ("", "thousand", "million", "billion", "trillion")
LARGEST = 10**15
IRREGULAR_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
ROMAN = re.compile(r"(?=[IVXLC])(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}


def below_thousand(number: int, joined: bool) -> str:
    """Words of a number below 1,000, with "and" behind the hundreds if `joined`."""
    hundreds, rest = divmod(number, 100)
    words = [f"{ONES[hundreds]} hundred"] if hundreds else []
    if rest:
        below = ONES[rest] if rest < 20 else TENS[rest // 10] + (f" {ONES[rest % 10]}" if rest % 10 else "")
        words += ["and", below] if hundreds and joined else [below]
    return " ".join(words)


def cardinal(digits: str) -> str:
    """12,345 as "twelve thousand three hundred and forty five"; from a quadrillion on, digit by digit."""
    number = int(digits.replace(",", "")) if len(digits) < 24 else LARGEST
    if number >= LARGEST:
        return one_by_one(digits)
    if number == 0:
        return "zero"
    groups = []
    for scale in SCALES:
        number, group = divmod(number, 1000)
        if group:
            last = "and " if not scale and group < 100 and number else ""
            groups.append(f"{last}{below_thousand(group, joined=not scale)} {scale}".strip())
    return " ".join(reversed(groups))


def ordinal(digits: str) -> str:
    """21 as "twenty first"."""
    before, _, last = cardinal(digits).rpartition(" ")
    if last in IRREGULAR_ORDINALS:
        last = IRREGULAR_ORDINALS[last]
    else:
        last = f"{last.removesuffix('y')}ieth" if last.endswith("y") else f"{last}th"
    return f"{before} {last}".strip()


def one_by_one(digits: str) -> str:
    """Every digit, "zero" for 0; other characters are left out."""
    return " ".join(ONES[int(digit)] for digit in digits if digit in "0123456789")


def year(digits: str) -> str:
    """1905 as "nineteen oh five", 1900 as "nineteen hundred", 2005 as "two thousand and five"; else a cardinal."""
    century, rest = divmod(int(digits[:5]), 100)
    if len(digits) != 4 or not 10 <= century <= 20 or (century in (10, 20) and rest < 10):
        return cardinal(digits)
    if rest == 0:
        return f"{cardinal(str(century))} hundred"
    return f"{cardinal(str(century))} {'oh ' if rest < 10 else ''}{cardinal(str(rest))}"


def whole(digits: str) -> str:
    """A number as it stands alone: grouped or short ones as cardinals, four digits as years, a leading 0 as digits."""
    if len(digits) > 1 and digits.startswith("0"):
        return one_by_one(digits)
    return year(digits) if len(digits) == 4 else cardinal(digits)


def decimal(written: str) -> str:
    """1,234.50 as "one thousand two hundred and thirty four point five zero"; .5 as "point five"."""
    before, _, after = written.partition(".")
    words = [cardinal(before)] if before else []
    return " ".join([*words, "point", one_by_one(after)] if after else words)


def plural(word: str) -> str:
    """Of a number word: nineties, tens, hundreds."""
    return f"{word.removesuffix('y')}ies" if word.endswith("y") else f"{word}s"


def decade(digits: str) -> str:
    """1990 as "nineteen nineties", 1800 as "eighteen hundreds", 90 as "nineties"."""
    return plural(year(digits))


def roman(numeral: str) -> str | None:
    """Digits of a Roman numeral below 100; None of anything else."""
    if not ROMAN.fullmatch(numeral):
        return None
    values = [ROMAN_VALUES[letter] for letter in numeral]
    following = [*values[1:], 0]
    return str(sum(-value if value < after else value for value, after in zip(values, following, strict=True)))


def number(written: str) -> str:
    """A number with or without fraction; 1500 as "fifteen hundred", 1,500 as "one thousand five hundred"."""
    return decimal(written) if "." in written or "," in written else whole(written)
