"""modules/report/glossary.py: what the verifiers measure, in words."""

import pytest

from modules.report.glossary import first_sentence, glossary
from modules.verifiers.alignment import AlignmentScore
from modules.verifiers.emotion import EmotionLabel, EmotionSimilarity
from modules.verifiers.ensemble import Ensemble
from modules.verifiers.health import Health
from modules.verifiers.likelihood import Likelihood
from modules.verifiers.naturalness import AudioRegressor, DistillMos, Dnsmos, Utmos
from modules.verifiers.seconds_per_character import SecondsPerCharacter
from modules.verifiers.speaker import Speaker
from modules.verifiers.text_probability import TextProbability
from modules.verifiers.transcript import Transcript
from tests.toys.report_toys import ToneVerifier, WritingVerifier

SHIPPED = (
    AlignmentScore, AudioRegressor, DistillMos, Dnsmos, EmotionLabel, EmotionSimilarity, Ensemble, Health, Likelihood,
    SecondsPerCharacter, Speaker, TextProbability, Transcript, Utmos,
)  # fmt: skip


@pytest.mark.parametrize("kind", SHIPPED)
def test_every_verifier_says_what_it_measures(kind):
    """Guards against a verifier without a line of the glossary, and against one that ends within a sentence."""
    sentence = first_sentence(kind)
    assert sentence.endswith(".") and len(sentence) > 20 and "`" not in sentence
    assert sentence.count("(") == sentence.count(")")
    assert " ".join(kind.__doc__.replace("`", "").split()).startswith(sentence)


def test_errors_are_low_and_scores_high():
    """Guards against a direction that contradicts the figures, which show 1 - score of recognisers."""
    speaker = ToneVerifier("speaker", None)
    speaker.best_score = 5.0
    lines = glossary([WritingVerifier("listener", None), speaker], {"listener": ["judge"]})
    assert [(line.name, line.roles) for line in lines] == [("listener", ["judge"]), ("speaker", ())]
    assert lines[0].direction == "Its figures show the error (1 - score): lower is better."
    assert lines[1].direction == "Higher is better (scale 0 to 5)."
    assert lines[0].families == sorted(WritingVerifier("listener", None).families)
    speaker.best_score = float("inf")
    assert glossary([speaker], {})[0].direction == "Higher is better."
