"""A typed text as a script: sentences to speak and pauses. Refuses in one line what cannot or must not be spoken."""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from modules.frontend.sentences import split_long, split_sentences
from modules.frontend.verbalise import Rewriting, verbalise

__all__ = ["PARAGRAPH_SECONDS", "Pause", "Rewriting", "Script", "Spoken", "read_script", "text_of_bytes"]

PARAGRAPH_SECONDS = 0.7
MAX_PAUSE_SECONDS = 60.0
MARKER = re.compile(r"<\|[^\n]{0,100}?\|>")
PAUSE = re.compile(r"\[\s*pause(?=\s*[\]:=\d])[^\]\n]{0,40}\]?", re.IGNORECASE)
PAUSE_LENGTH = re.compile(r"\[\s*pause\s*:\s*(\d{1,6}(?:\.\d{1,6})?)\s*(ms|s)\s*\]", re.IGNORECASE)
BLANK_LINE = re.compile(r"\n\s*\n|\u2029")

# Typographic forms of what a keyboard has. An en dash between words is a hyphen, between spaces a dash.
PLAIN = {
    **dict.fromkeys("‘’‚‛′ʼ´`＇", "'"), **dict.fromkeys("“”„‟″«»＂", '"'),
    **dict.fromkeys("‐‑‒−﹣－", "-"), "―": "—", "…": "...", "℃": "°C", "℉": "°F", "⁄": "/",
}  # fmt: skip
EN_DASH_RANGE = re.compile(r"(?<=\d) – (?=\d)")
LONE_DASH = re.compile(r"(?<=\s)(?:–|--)(?=\s)|--+")
SPOKEN_SYMBOLS = frozenset("°©®™№")  # of the category So, that of emoji
JOINERS = "\u200d\ufe0f"
PICTOGRAMS = re.compile("p[pj]*")
# Joiners are letters' parts in Arabic and Indic scripts.
INVISIBLE = re.compile(
    r"[\ufe00-\ufe0f]|(?<![\u0600-\u18ff])[\u200c\u200d]|[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
)


@dataclass(frozen=True)
class Spoken:
    """One sentence, or a part of a long one."""

    text: str  # as it is to be spoken: one line, trimmed
    written: str  # as typed, white space aside
    paragraph: int  # from 0; a blank line begins the next


@dataclass(frozen=True)
class Pause:
    seconds: float


@dataclass(frozen=True)
class Script:
    """What is spoken in order, and every change made to what was typed."""

    segments: tuple[Spoken | Pause, ...]
    rewritings: tuple[Rewriting, ...]

    @property
    def sentences(self) -> list[Spoken]:
        return [segment for segment in self.segments if isinstance(segment, Spoken)]


def text_of_bytes(data: bytes) -> str:
    """Text of a file or of standard input, without a byte order mark. Raises ValueError unless it is UTF-8."""
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Expected the text to be UTF-8, but got the byte 0x{data[error.start]:02x} at position {error.start}. "
            "Save it as UTF-8."
        ) from None


@dataclass(frozen=True)
class Reading:
    """How texts are read: the language, the most characters of a sentence, and whether figures become words."""

    language: str
    max_characters: int
    verbalises: bool


def read_script(text: str, language: str = "en", max_characters: int = 300, verbalises: bool = True) -> Script:
    """The sentences and pauses of a typed text.

    Args:
        text: As typed. A blank line and `[pause:500ms]` or `[pause:1.5s]` are pauses; another line break is a space.
        language: Code of two letters, or with a region (en-GB). English numbers and abbreviations become words.
        max_characters: Most characters of one sentence; longer ones are cut at clauses, then words.
        verbalises: False for a model that was trained on figures as such.

    Raises ValueError in one line for a text without a word, control characters, markers of a model's vocabulary, a
    malformed pause, and digits of a language that has no rules here.
    """
    if max_characters < 1:
        raise ValueError(f"Expected `max_characters` to be at least 1, but got {max_characters}.")
    refuse_unspeakable(text)
    reading = Reading(re.split("[-_]", language.strip().lower())[0], max_characters, verbalises)
    segments: list[Spoken | Pause] = []
    rewritings: list[Rewriting] = []
    num_paragraphs = 0
    for typed in BLANK_LINE.split(text.replace("\r\n", "\n").replace("\r", "\n")):
        spoken = [*read_paragraph(typed, reading, num_paragraphs, rewritings)]
        has_words = any(isinstance(segment, Spoken) for segment in spoken)
        if has_words and num_paragraphs:
            segments.append(Pause(PARAGRAPH_SECONDS))
        segments += spoken
        num_paragraphs += has_words
    if not num_paragraphs:
        raise ValueError(f"Expected words to speak, but got {shown(text)}, which has none. Give a text with a word.")
    return Script(tuple(segments), tuple(rewritings))


def refuse_unspeakable(text: str) -> None:
    """Raise ValueError for an empty text, control characters, bytes that were not UTF-8, and a vocabulary's markers."""
    if not text.strip():
        raise ValueError("Expected words to speak, but got an empty text. Give a text with a word.")
    for position, character in enumerate(text):
        category = unicodedata.category(character)
        if category == "Cs":
            raise ValueError(f"Expected the text to be UTF-8, but got another byte at character {position}.")
        if category == "Cc" and character not in "\n\r\t":
            raise ValueError(
                f"Expected a text without control characters, but got U+{ord(character):04X} at character {position}. "
                "Remove it."
            )
    for form in (text, cleaned(text, [])):  # a marker may come about by removing what is invisible
        if marker := MARKER.search(form):
            raise ValueError(
                f"Expected a text without markers of the model's vocabulary, but got `{marker[0]}`. Remove it."
            )


def read_paragraph(typed: str, reading: Reading, paragraph: int, rewritings: list[Rewriting]) -> list[Spoken | Pause]:
    """Sentences and pauses of one paragraph; adds to `rewritings`."""
    segments: list[Spoken | Pause] = []
    position = 0
    for match in PAUSE.finditer(typed):
        segments += read_sentences(typed[position : match.start()], reading, paragraph, rewritings)
        segments.append(Pause(pause_seconds(match[0])))
        position = match.end()
    return segments + read_sentences(typed[position:], reading, paragraph, rewritings)


def pause_seconds(written: str) -> float:
    """Raises ValueError unless `written` is a pause of more than 0 and at most 60 seconds."""
    match = PAUSE_LENGTH.fullmatch(written)
    seconds = float(match[1]) / (1000 if match[2].lower() == "ms" else 1) if match else 0.0
    if not 0 < seconds <= MAX_PAUSE_SECONDS:
        raise ValueError(
            f"Expected a pause as `[pause:500ms]` or `[pause:1.5s]`, up to {MAX_PAUSE_SECONDS:.0f} s, "
            f"but got `{written}`."
        )
    return seconds


def read_sentences(typed: str, reading: Reading, paragraph: int, rewritings: list[Rewriting]) -> list[Spoken]:
    """Sentences of a text without pauses, in parts of at most `reading.max_characters`; adds to `rewritings`."""
    found: list[Spoken] = []
    for sentence in split_sentences(" ".join(typed.split()), reading.language):
        plain = cleaned(sentence, rewritings)
        if not has_word(plain):
            continue
        pieces = verbalise(plain, reading.language) if reading.verbalises else [(plain, plain)]
        rewritings += [Rewriting(written, spoken.strip()) for written, spoken in pieces if written != spoken]
        text = "".join(spoken for _, spoken in pieces)
        bounds = split_long(text, reading.max_characters)
        if len(bounds) == 1:
            found.append(Spoken(" ".join(text.split()), sentence.strip(), paragraph))
            continue
        starts = written_starts(pieces, [start for start, _ in bounds])
        for (start, end), begin, stop in zip(bounds, starts, [*starts[1:], len(plain)], strict=True):
            if has_word(text[start:end]):
                found.append(Spoken(" ".join(text[start:end].split()), plain[begin:stop].strip(), paragraph))
    return found


def has_word(text: str) -> bool:
    return any(character.isalnum() for character in text)


def written_starts(pieces: list[tuple[str, str]], starts: list[int]) -> list[int]:
    """Positions in the written text of ascending positions in the spoken one; inside a rewriting, that of its end."""
    found: list[int] = []
    remaining = iter(pieces)
    written, spoken = next(remaining)
    written_start = spoken_start = 0
    for start in starts:
        while start >= spoken_start + len(spoken):
            written_start, spoken_start = written_start + len(written), spoken_start + len(spoken)
            written, spoken = next(remaining)
        offset = start - spoken_start
        inside = 0 if not spoken[:offset].strip() else len(written)
        found.append(written_start + (offset if written == spoken else inside))
    return found


def cleaned(text: str, rewritings: list[Rewriting]) -> str:
    """`text` with plain quotes and dashes, composed (NFC), without emoji and invisible characters.

    Adds to `rewritings` every emoji that was removed, and each sign that was made plain, once.
    """
    if text.isascii() and "--" not in text:
        return text
    kinds = "".join("p" if is_pictogram(sign) else "j" if sign in JOINERS else "." for sign in text)
    kept, position = [], 0
    for run in PICTOGRAMS.finditer(kinds):
        kept.append(text[position : run.start()])
        rewritings.append(Rewriting(text[slice(*run.span())], ""))
        position = run.end()
    text = unicodedata.normalize("NFC", INVISIBLE.sub("", "".join([*kept, text[position:]])))
    changes = {sign: PLAIN[sign] for sign in sorted(set(text) & PLAIN.keys())}
    rewritings += [change for change in (Rewriting(*item) for item in changes.items()) if change not in rewritings]
    text = EN_DASH_RANGE.sub("-", text.translate({ord(sign): plain for sign, plain in changes.items()}))
    return LONE_DASH.sub("—", text).replace("–", "-")


@lru_cache(maxsize=4096)
def is_pictogram(sign: str) -> bool:
    """Emoji, their skin tones and tags, other pictures, private use, and what Unicode does not assign."""
    if sign == "\u20e3" or "\U0001f3fb" <= sign <= "\U0001f3ff" or "\U000e0000" <= sign <= "\U000e00ff":
        return True
    return unicodedata.category(sign) in ("So", "Co", "Cn") and sign not in SPOKEN_SYMBOLS


def shown(text: str) -> str:
    line = " ".join(text.split())
    return f"`{line[:40]}`" + (" ..." if len(line) > 40 else "")
