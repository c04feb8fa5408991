"""Conversion of written English to its spoken form: signs, times and fractions in figures, apostrophes."""

import re
import unicodedata

# Characters written for the apostrophe: typographic quotes, modifier letters, the prime, accents, the full-width form.
APOSTROPHES = "\u2019\u2018\u201b\u02bc\u02bb\u2032`\u00b4\ua78c\uff07"
# Spoken forms of signs, and of the denominators of fractions in figures.
SPOKEN_SIGNS = {
    "%": "percent",
    "&": "and",
    "+": "plus",
    "=": "equals",
    "@": "at",
    "\u00b0": "degrees",
    "\u00a2": "cents",
}
SPOKEN_CURRENCIES = {"\u00a5": "yen", "\u20b9": "rupees"}
DENOMINATORS = ("half", "third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
ORDINAL_DENOMINATORS = tuple(name for name in DENOMINATORS if name not in ("half", "quarter"))
SIGN_TABLES = [APOSTROPHES, SPOKEN_SIGNS, SPOKEN_CURRENCIES, DENOMINATORS]


def with_plain_apostrophes(text: str) -> str:
    return text.translate(dict.fromkeys(map(ord, APOSTROPHES), "'"))


def read_out(text: str) -> str:
    """Convert lower-case English text: signs, times and fractions are written as Whisper's rules expect them."""
    text = with_plain_apostrophes(text).lower()
    text = re.sub(r"[\[\]()<>{}]", " ", text)
    text = re.sub("[\u00bc-\u00be\u2150-\u215e]", lambda sign: f" {unicodedata.normalize('NFKC', sign[0])}", text)
    text = re.sub(r"(?<!\S)[-\u2212](?=[\d$\u20ac\u00a3])", "minus ", text)
    # Whisper's rules lose a minus before an amount: replace it with a word that they do not know.
    text = re.sub(r"\b(minus|negative)\b", r"\1sign", text)
    text = re.sub(r"([$\u20ac\u00a3])\s?(?=\.\d)", r"\g<1>0", text)
    text = re.sub(r"\u00a2\s?(\d+)", r"\1 cents", text)
    text = re.sub(r"(\d)\s?([$\u20ac\u00a3])(?!\d)", r"\1 \2", text)
    text = re.sub(r"([\d.,]*\d) ([$\u20ac\u00a3])", r"\2\1", text)
    for sign, name in SPOKEN_CURRENCIES.items():
        text = re.sub(rf"{sign}\s?([\d.,]*\d(?: (?:hundred|thousand|million|billion|trillion))?)", rf"\1 {name}", text)
    for sign, name in SPOKEN_SIGNS.items():
        text = text.replace(sign, f" {name} ")
    text = re.sub(r"\b([ap])(?:\.\s?| )m\b\.?", r"\1m", text)
    text = re.sub(r"(?<![\d:])(\d\d?):([0-5]\d)(?![\d:])", _clock_figures, text)
    text = re.sub(r"\s+o'clock\b", "", text)
    text = re.sub(r"(?:(?<![\d/.,])(\d+)\s+)?(?<![\d/.,])(\d+)[/\u2044](\d+)(?![\d/])", _spoken_fraction, text)
    text = re.sub(r"\b(?:a|one) (half|quarter)\b", r"\1", text)
    # Whisper's rules read "one fifth" as the ordinal "15th": replace it with a word that is not an ordinal.
    return re.sub(rf"\b(?:a|one) ({'|'.join(ORDINAL_DENOMINATORS)})\b", r"\1part", text)


def _clock_figures(time: re.Match[str]) -> str:
    return time[1] if time[2] == "00" else time[1] + time[2]


def _spoken_fraction(fraction: re.Match[str]) -> str:
    """ "2 1/2" as "2 and half", "3/4" as "3 quarters"; other than fractions up to tenths as the numbers."""
    whole, above, below = fraction[1], int(fraction[2]), int(fraction[3])
    if not 0 < above < below <= 10:
        return " ".join(number for number in fraction.groups() if number)
    name = DENOMINATORS[below - 2]
    if above > 1:
        name = f"{above} {name}s"
    elif name not in ("half", "quarter"):
        name = f"one {name}"
    return f"{whole} and {name}" if whole else name
