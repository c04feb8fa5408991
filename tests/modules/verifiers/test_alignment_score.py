"""AlignmentScore on speech whose words are known: flite's, where it is installed."""

import math

import pytest
import torch

from datamodules.sources.flite import Flite
from modules.api import Audio, Candidate, Prompt, Verifier
from modules.frontend.alignment import PhonemeAligner
from modules.frontend.phonemes import pronunciations, spoken_words
from modules.verifiers.alignment import WORST_SCORE, AlignmentScore
from modules.verifiers.recognisers.pocketsphinx import Pocketsphinx

TEXT = "the children found an old map in the kitchen drawer"
WRONG = ["the children found an old dog in the kitchen drawer", "nobody knows where the river ends tonight my friend"]


@pytest.fixture(scope="module")
def verifier() -> AlignmentScore:
    return AlignmentScore(PhonemeAligner(pronunciations), spoken_words)


def candidates(*audios: Audio | None) -> list[Candidate]:
    codes_S = torch.zeros(4, dtype=torch.int64)
    return [Candidate("prompt", index, 0, codes_S, -8.0, True, audio) for index, audio in enumerate(audios)]


def test_right_words_score_above_wrong_ones(verifier):
    """Guards against scores that do not depend on the words, and impossible texts above possible ones."""
    try:
        audios = [Flite("rms").speak(text).audio for text in (TEXT, *WRONG)]
    except ImportError as error:
        pytest.skip(str(error))
    right, one_word, all_words = verifier.score(Prompt("prompt", TEXT), candidates(*audios)).tolist()
    assert 0 >= right > one_word > all_words >= WORST_SCORE
    short = Audio(audios[0].samples_T[:4000], 16_000)  # less than the words need
    many = verifier.score_many([Prompt("a", TEXT), Prompt("b", WRONG[0])], [candidates(*audios), candidates(short)])
    assert many[0].tolist() == [right, one_word, all_words]
    assert many[1].tolist() == [WORST_SCORE]


def test_candidates_without_audio_cannot_be_scored(verifier):
    silence = Audio(torch.zeros(16_000), 16_000)
    scores = verifier.score(Prompt("prompt", TEXT), candidates(None, Audio(torch.zeros(10), 16_000), silence)).tolist()
    assert math.isnan(scores[0]) and math.isnan(scores[1])
    assert scores[2] == WORST_SCORE
    with pytest.raises(ValueError, match="words"):
        verifier.score(Prompt("prompt", "..."), candidates(silence))


def test_it_is_one_model_with_the_recogniser(verifier):
    """Guards against a selector that its own acoustic model judges."""
    assert isinstance(verifier, Verifier)
    assert verifier.facts.model_hash == Pocketsphinx().model_hash
    assert verifier.flops(2.0) == Pocketsphinx().flops(2.0)
