"""The table of spoken forms (spoken_forms.tsv), and the rules behind it against wetext's own grammars."""

import random
import re
from pathlib import Path

import pytest
from wetext import Normalizer

from modules.frontend.english.numbers import cardinal, ordinal, roman
from modules.frontend.script import read_script
from modules.frontend.verbalise import verbalise

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
TABLE = [line.split("\t") for line in (HERE / "spoken_forms.tsv").read_text().splitlines()[1:]]
PROSE = """It's a fine day, isn't it? I can't say that I'd have guessed.
"Stop!" she cried. 'Why should I?' said the other.
We've (almost) never been there; they're late, as usual: very late.
US troops and the FBI met NASA's staff in the UK.
The rain in Spain stays mainly in the plain...
A well-known mother-in-law; a two-thirds majority and/or nothing.
He or she [whoever it was] left {or so it seems}.
Go. No. Yes! Well, no, thank you.
Read me: one, two, three -- go!
Sun and sea, mark my words, may help. March on, will you?
I am what I am, and Vitamin C is type O, said Malcolm X.
Gonna wanna y'all o'clock rock 'n' roll. naïve café, Zoë's façade.""".splitlines()


@pytest.fixture(scope="module")
def grammars() -> Normalizer:
    return Normalizer(lang="en", operator="tn")


def spoken_by(grammars: Normalizer, written: str) -> str:
    """What wetext alone says, as the table's third column has it."""
    try:
        spoken = grammars.normalize(written)
    except AssertionError:
        return "(fails)"
    return "(unchanged)" if spoken == written else spoken


def spoken_by_us(written: str) -> str:
    return "".join(spoken for _, spoken in verbalise(written, "en"))


def test_the_table_is_of_forms_that_wetext_mistakes(grammars: Normalizer) -> None:
    """Guards against rules that nobody needs: each row shows what wetext alone makes of it."""
    assert len(TABLE) >= 40
    for written, spoken, alone in TABLE:
        assert spoken_by(grammars, written) == alone
        assert alone.lower() != spoken.lower(), written


@pytest.mark.parametrize(("written", "spoken"), [row[:2] for row in TABLE])
def test_a_form_is_spoken_as_the_table_says(written: str, spoken: str) -> None:
    sentences = read_script(written).sentences
    assert [(sentence.text, sentence.written) for sentence in sentences] == [(spoken, written)]


def test_numbers_are_those_of_wetext(grammars: Normalizer) -> None:
    """Our own number words, which the rules use, against grammars written by others."""
    chosen = random.Random(0).sample(range(10_000, 10**10), 100)
    for number in [*range(0, 1000, 7), *chosen]:
        assert cardinal(str(number)) == grammars.normalize(str(number)), number
    for number in range(1, 100):
        suffix = "th" if 10 < number < 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
        assert ordinal(str(number)) == grammars.normalize(f"{number}{suffix}"), number


def test_roman_numerals_are_those_of_unicode() -> None:
    """Guards against XV read as 4; the digits come from Unicode's names of ROMAN NUMERAL ONE to TWELVE, by NFKC."""
    import unicodedata

    for code in range(0x2160, 0x216C):
        assert roman(unicodedata.normalize("NFKC", chr(code))) == str(int(unicodedata.numeric(chr(code))))
    assert [roman(word) for word in ("IIII", "VX", "MIX", "I'M", "")] == [None] * 5


def plain_lines(path: Path) -> list[str]:
    """Lines of a page without digits, signs, capitalised short forms and full stops inside."""
    lines = path.read_text().splitlines()
    return [line for line in lines if re.fullmatch(r"[A-Za-z ,;:!?'\"()-]+\.?", line) and " etc" not in line]


def test_plain_prose_passes_byte_for_byte() -> None:
    """Guards against wetext's side effects on plain text (escaped quotes, U.S. as US), and rules that see too much."""
    pages = [line for path in sorted(REPOSITORY.glob("docs/*.md")) for line in plain_lines(path)]
    assert len(pages) > 20
    for line in [*PROSE, *pages]:
        assert verbalise(line, "en") == [(line, line)]


def test_a_spoken_text_is_spoken_as_it_is() -> None:
    """Idempotent: what was made of a form is not rewritten again."""
    for _, spoken, _ in TABLE:
        assert spoken_by_us(spoken) == spoken


def test_no_digit_is_left_and_no_character_is_lost() -> None:
    """Guards against digits that fall between two rules, and spans that overlap. 200 texts of signs at random."""
    choose = random.Random(1)
    parts = [*"0123456789", *"0123456789", *" .,:;-/$%€#+=x'\"()°²½^~&@km", " St. ", "th", " pm", "May ", "-", " "]
    for _ in range(200):
        text = "a" + "".join(choose.choices(parts, k=choose.randint(1, 24)))
        pieces = verbalise(text, "en")
        assert "".join(written for written, _ in pieces) == text
        assert not re.search(r"\d", "".join(spoken for _, spoken in pieces)), text
