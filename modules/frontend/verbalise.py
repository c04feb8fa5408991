"""Text as it is spoken: numbers, times, money and abbreviations as words; all other text stays as it is.

English: our rules take what wetext's grammars mistake, wetext gets the numbers that are left. It never gets a whole
sentence: on plain text it changes case and abbreviations. Other languages: nemo_text_processing, where installed.
"""

import re
import unicodedata
from dataclasses import dataclass

from modules.frontend.english.numbers import one_by_one, whole
from modules.frontend.english.rules import rules
from modules.frontend.english.tables import VULGAR_FRACTIONS
from modules.frontend.grammars import by_wetext, nemo_normalizer

REMAINING = re.compile(r"\d+(?:st|nd|rd|th)\b|(?:\d+ )?\d+/\d+(?!/)|\d+:\d+(?::\d+)?|\d+")
NEEDS_NO_SPACE_BEHIND = re.compile(r"[\s.,;:!?)\]}\"'—/-]")
NEEDS_NO_SPACE_BEFORE = re.compile(r"[\s(\[{\"'—/-]")
SIGNS = frozenset("%&@#+=°§©×÷±")


@dataclass(frozen=True)
class Rewriting:
    """A span as typed and as spoken."""

    written: str
    spoken: str


def verbalise(text: str, language: str) -> list[tuple[str, str]]:
    """Pairs of spans (written, spoken) that cover `text` in order; equal where nothing changes.

    Raises ValueError for numbers and signs of a language without rules, ImportError without wetext.
    """
    if language == "en":
        return verbalise_english(text)
    signs = [word for word in text.split() if any(is_sign(character) for character in word)]
    if not signs:
        return [(text, text)]
    normalizer = nemo_normalizer(language)
    if normalizer is None:
        raise ValueError(
            f"Expected a text without digits and signs in the language `{language}`, which has no rules for them here, "
            f"but got `{' '.join(signs[:5])}`. Write them as words, or: pip install nemo_text_processing."
        )
    spoken = normalizer.normalize(text, verbose=False)
    return [(text, spoken)]


def is_sign(character: str) -> bool:
    return character in SIGNS or unicodedata.category(character) in ("Nd", "Nl", "No", "Sc")


def verbalise_english(text: str) -> list[tuple[str, str]]:
    text = text if text.isascii() else "".join(map(plain_digits, text))
    taken = bytearray(len(text))
    spans: list[tuple[int, int, str]] = []
    for pattern, function in rules(any(map(str.isnumeric, text))):
        for match in pattern.finditer(text):
            start, end = match.span()
            spoken = None if any(taken[start:end]) else function(match)
            if spoken is not None:
                taken[start:end] = b"\1" * (end - start)
                spans.append((start, end, spoken))
    spans.sort()
    starts, ends = [start for start, _, _ in spans], [end for _, end, _ in spans]
    for begin, stop in zip([0, *ends], [*starts, len(text)], strict=True):
        spans += [(*match.span(), remaining(match)) for match in REMAINING.finditer(text, begin, stop)]
    pieces: list[tuple[str, str]] = []
    position = 0
    for start, end, spoken in sorted(spans):
        if position < start:
            pieces.append((text[position:start], text[position:start]))
        pieces.append((text[start:end], spaced(text, start, end, spoken, pieces)))
        position = end
    return [*pieces, (text[position:], text[position:])] if position < len(text) else pieces


def plain_digits(sign: str) -> str:
    """Digits of other scripts, circled or Roman ones as ours or as letters; superscripts and fractions stay."""
    numeric = unicodedata.category(sign) in ("Nd", "Nl", "No")
    known = sign in VULGAR_FRACTIONS or sign in "⁰¹²³⁴⁵⁶⁷⁸⁹"
    return unicodedata.normalize("NFKC", sign) if numeric and not known else sign


def remaining(match: re.Match[str]) -> str:
    """Words of a number: wetext's, or digit by digit where it has none."""
    written = match[0]
    return by_wetext(written) or (whole(written) if written.isdigit() else one_by_one(written))


def spaced(text: str, start: int, end: int, spoken: str, before: list[tuple[str, str]]) -> str:
    """`spoken` with spaces where its neighbours are words."""
    words = spoken.strip()
    if not words:
        return spoken
    last = before[-1][1][-1:] if before else ""
    left = " " if last and not NEEDS_NO_SPACE_BEFORE.match(last) else ""
    right = " " if end < len(text) and not NEEDS_NO_SPACE_BEHIND.match(text[end]) else ""
    return f"{left}{words}{right}"
