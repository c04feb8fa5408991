"""Sentences of a paragraph, and long ones cut at clauses, then between words, then between characters."""

import re

from modules.frontend.english.tables import NEVER_LAST, RARELY_LAST

CLAUSE_END = re.compile(r"[;:,—，；：、。！？][\"')\]]*\s+|—\s*|[，；：、。！？]")
LIST_NUMBER = re.compile(r"\(?(?:\d{1,3}|[A-Za-z])[.)]\s*")
LAST_WORD = re.compile(r"(?:^|[\s(\"'])([A-Za-z.]+\.)\s*$")


def split_sentences(paragraph: str, language: str) -> list[str]:
    """Sentences whose concatenation is `paragraph`. sentencex falls back to general rules for an unknown language.

    Raises ImportError with the install command without sentencex.
    """
    try:
        import sentencex
    except ImportError as error:
        raise ImportError("Sentences need sentencex: pip install sentencex") from error

    sentences: list[str] = []
    for piece in sentencex.segment(language, paragraph):
        if sentences and language == "en" and belongs_together(sentences[-1], piece):
            sentences[-1] += piece
        else:
            sentences.append(piece)
    return sentences


def belongs_together(before: str, after: str) -> bool:
    """Whether the full stop at the end of `before` is an abbreviation's or a list's: "Elm St." + "is near"."""
    if LIST_NUMBER.fullmatch(before):
        return True
    last = LAST_WORD.search(before[-20:])
    if last is None:
        return False
    name, begins = last[1].lower(), after[:1]
    return name in NEVER_LAST or (name in RARELY_LAST and (begins.islower() or begins.isdigit()))


def split_long(text: str, max_characters: int) -> list[tuple[int, int]]:
    """Bounds (start, end) of pieces of `text`, each of at most `max_characters`, which cover all but white space.

    A piece ends behind the last clause that fits, else behind the last word, else anywhere. Linear in the length.
    """
    pieces, start, length = [], 0, len(text)
    while start < length:
        if text[start].isspace():
            start += 1
            continue
        end = min(start + max_characters, length)
        if end < length:
            window = text[start : end + 1]  # one more: a clause or word may end exactly at the limit
            clauses = [match.end() for match in CLAUSE_END.finditer(window)]
            cut = clauses[-1] if clauses else window.rfind(" ") + 1
            end = start + min(cut, max_characters) if cut > 0 else end
        pieces.append((start, start + len(text[start:end].rstrip())))
        start = end
    return pieces
