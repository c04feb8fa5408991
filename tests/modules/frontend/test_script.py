"""What is typed as a script: sentences, pauses, rewritings, and what is refused in one line."""

import sys
import unicodedata
from pathlib import Path
from types import ModuleType

import pytest

from modules.frontend import grammars
from modules.frontend.script import (
    PARAGRAPH_SECONDS,
    Pause,
    Rewriting,
    Spoken,
    read_script,
    text_of_bytes,
)


def texts(typed: str, **options: object) -> list[str]:
    return [sentence.text for sentence in read_script(typed, **options).sentences]


def test_the_first_example_of_the_command() -> None:
    script = read_script("Hello: World. It's 7:30 p.m., isn't it?")
    assert script.segments == (
        Spoken("Hello: World.", "Hello: World.", 0),
        Spoken("It's seven thirty PM, isn't it?", "It's 7:30 p.m., isn't it?", 0),
    )
    assert script.rewritings == (Rewriting("7:30 p.m.", "seven thirty PM"),)


def test_blank_lines_and_marks_are_pauses_and_line_breaks_are_spaces() -> None:
    script = read_script("\n\nOne\ntwo.\r\n \r\n\r\n😀\n\n[pause:1.5s]Three [PAUSE: 250ms] four.\n\n")
    assert script.segments == (
        Spoken("One two.", "One two.", 0),
        Pause(PARAGRAPH_SECONDS),
        Pause(1.5),
        Spoken("Three", "Three", 1),
        Pause(0.25),
        Spoken("four.", "four.", 1),
    )
    assert script.rewritings == (Rewriting("😀", ""),)


def test_one_and_two_words_and_brackets_are_spoken() -> None:
    for typed in ("no", "Go!", "four two", "(aside) [laughs] {set} <tag> [pauses] pause"):
        assert texts(typed) == [typed]


def test_typographic_forms_are_plain_and_told_once() -> None:
    script = read_script("“Don’t” – he\u00a0said… twice—or “3–5” ti\u00admes. Cafe\u0301\u200b!")
    assert [sentence.text for sentence in script.sentences] == [
        '"Don\'t" — he said... twice—or "three to five" times.',
        "Café!",
    ]
    told = [rewriting.written for rewriting in script.rewritings]
    assert told.count("“") == 1 and {"“", "”", "’", "…", "3", "5"} <= set(told)


def test_emoji_inside_words_are_removed_and_told() -> None:
    script = read_script("👨‍👩‍👧 Family 👍🏽, 1️⃣ flag 🇫🇷 ✔️ done ™")
    assert [sentence.text for sentence in script.sentences] == ["Family , one flag done"]
    removed = [rewriting.written for rewriting in script.rewritings if not rewriting.spoken]
    assert removed[:3] == ["👨‍👩‍👧", "👍🏽", "⃣"] and "🇫🇷" in removed


def test_joiners_of_persian_and_hindi_stay() -> None:
    for typed, language in (("می\u200cخواهم", "fa"), ("क्\u200dष", "hi")):
        assert texts(typed, language=language) == [unicodedata.normalize("NFC", typed)]


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("", "empty"),
        (" \n\t\u00a0 ", "empty"),
        ("😀🎉", "😀🎉"),
        ("...!?", "...!?"),
        ("\u200b\ufeff", "none"),
        ("[pause:1s]", "[pause:1s]"),
        ("a\0b", "U+0000 at character 1"),
        ("bell\a", "U+0007 at character 4"),
        ("page\fbreak", "U+000C"),
        ("broken \udcff byte", "character 7"),
        ("say <|SPEECH_GENERATION_START|> now", "<|SPEECH_GENERATION_START|>"),
        ("say <|s_12|>", "<|s_12|>"),
        ("<|eot_id|>", "<|eot_id|>"),
        ("hidden <\u200b|s_1|\u200b>", "<|s_1|>"),
        ("hidden <😀|s_1|>", "<|s_1|>"),
        ("wait [pause:soon]", "[pause:soon]"),
        ("wait [pause]", "[pause]"),
        ("wait [pause:61s]", "up to 60 s"),
        ("wait [pause:0ms]", "[pause:0ms]"),
        ("wait [pause:-1s]", "[pause:-1s]"),
        ("wait [pause:5s", "[pause:5s"),
    ],
)
def test_what_cannot_be_spoken_is_refused_in_one_line(typed: str, named: str) -> None:
    with pytest.raises(ValueError, match="Expected") as refused:
        read_script(typed)
    assert named in str(refused.value) and "\n" not in str(refused.value)


def test_bytes_that_are_not_utf8_are_refused_with_their_position() -> None:
    assert text_of_bytes("\ufeffCafé\n".encode()) == "Café\n"
    with pytest.raises(ValueError, match=r"0xe9 at position 3\. Save it as UTF-8\."):
        text_of_bytes("Café".encode("latin-1"))


@pytest.mark.parametrize("unit", ["word ", "a, b; ", "a", "1 ", "5-", "a.a-", "9", "$", "Dr. "])
def test_a_hundred_thousand_characters_without_a_full_stop(unit: str) -> None:
    """Guards against patterns that take quadratic time (100,000 digits would take hours), and lost or long parts."""
    num_characters = 100_000 if unit in ("a", "9") else 10_000
    typed = unit * (num_characters // len(unit)) + " end"
    sentences = read_script(typed).sentences
    assert max(len(sentence.text) for sentence in sentences) <= 300
    assert "".join("".join(sentence.written for sentence in sentences).split()) == "".join(typed.split())
    if not any(character in "0123456789$D" for character in unit):
        assert "".join("".join(sentence.text for sentence in sentences).split()) == "".join(typed.split())


def test_a_language_without_rules_is_named_with_its_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against German digits spoken in English, or dropped."""
    monkeypatch.setitem(sys.modules, "nemo_text_processing", None)
    grammars.nemo_normalizer.cache_clear()
    for typed, named in (("Ich habe 3 Äpfel für 5 €.", "3 5 €"), ("Preis: 20 %.", "20 %"), ("Tom & Eva", "&")):
        with pytest.raises(ValueError, match=r"language `de`.*Write them as words, or") as refused:
            read_script(typed, language="de-AT")
        assert named in str(refused.value) and "\n" not in str(refused.value)
    assert texts("Ich habe drei Äpfel. Und z.B. Dr. Maier.", language="de") == [
        "Ich habe drei Äpfel.",
        "Und z.B. Dr. Maier.",
    ]
    assert texts("Quidquid id est. Timeo.", language="la") == ["Quidquid id est.", "Timeo."]


def test_compiled_grammars_are_kept_in_the_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards against minutes of compiling in every working folder, and a `cache` left in each."""
    package, given = "nemo_text_processing.text_normalization", []
    module = ModuleType(f"{package}.normalize")
    module.Normalizer = lambda **options: given.append(options)  # type: ignore[attr-defined]
    for name in ("nemo_text_processing", package):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    grammars.nemo_normalizer.cache_clear()
    grammars.nemo_normalizer("de")
    grammars.nemo_normalizer.cache_clear()
    assert Path(given[0]["cache_dir"]) == Path(__file__).resolve().parents[3] / "cache" / "nemo_text_processing"


def test_a_region_is_its_language() -> None:
    assert texts("It is 5.", language="en-GB") == texts("It is 5.", language="EN_us") == ["It is five."]


def test_a_missing_package_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars.wetext_normalizer.cache_clear()
    grammars.by_wetext.cache_clear()
    monkeypatch.setitem(sys.modules, "wetext", None)
    assert texts("No numbers here.") == ["No numbers here."]
    with pytest.raises(ImportError, match="pip install wetext"):
        read_script("The 5 of us.")
    monkeypatch.setitem(sys.modules, "sentencex", None)
    with pytest.raises(ImportError, match="pip install sentencex"):
        read_script("No numbers here.")


def test_the_grammars_are_loaded_once_and_only_for_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against 60 MB of grammars read for a text without a number, or for every sentence."""
    import wetext

    loads = []
    monkeypatch.setattr(wetext, "Normalizer", lambda **options: loads.append(options) or Fixed())
    grammars.wetext_normalizer.cache_clear()
    grammars.by_wetext.cache_clear()
    read_script("No number. At 7:30 p.m. it costs $3.50.")
    assert not loads
    assert texts("I saw 5. And 6. And 7.") == ["I saw some.", "And some.", "And some."]
    assert len(loads) == 1
    grammars.wetext_normalizer.cache_clear()
    grammars.by_wetext.cache_clear()


class Fixed:
    def normalize(self, written: str) -> str:
        return "some"


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="max_characters"):
        read_script("hello", max_characters=limit)
