"""TextProbability on recordings whose words are known."""

from collections.abc import Sequence

import pytest
import torch

from datamodules.sources.source import Recording
from modules.api import Audio, Candidate, Prompt, Verifier
from modules.verifiers.recognisers.moonshine import Moonshine
from modules.verifiers.recognisers.whisper import FasterWhisper
from modules.verifiers.text_probability import WORST_SCORE, TextProbability

RATE = 16_000


@pytest.fixture(scope="module")
def verifier() -> TextProbability:
    return TextProbability(Moonshine())


@pytest.fixture(scope="module")
def clips(english_prompts: list[Recording]) -> list[Recording]:
    return [one for one in english_prompts if one.audio.seconds < 4][:4]


def candidates(audios: Sequence[Audio | None]) -> list[Candidate]:
    codes_S = torch.zeros(4, dtype=torch.int64)
    return [Candidate("k", index, 0, codes_S, -8.0, True, audio) for index, audio in enumerate(audios)]


def test_the_text_is_most_probable_in_its_recording(verifier: TextProbability, clips: list[Recording]) -> None:
    """Guards against scores that ignore the audio or the text, and candidates that lose their place."""
    audios = [clip.audio for clip in clips]
    assert isinstance(verifier, Verifier)
    prompts = [Prompt("k", clip.text) for clip in clips]
    groups = [candidates([None, *audios]) for _ in clips]
    *scores, none = verifier.score_many([*prompts, Prompt("k", "Nothing.")], [*groups, []])
    scores_PN = torch.stack(scores)
    assert scores_PN[:, 0].isnan().all() and none.shape == (0,)
    assert scores_PN[:, 1:].argmax(1).tolist() == list(range(len(clips)))
    assert bool(((scores_PN[:, 1:] <= 0) & (scores_PN[:, 1:] >= WORST_SCORE)).all())
    assert verifier.score(prompts[3], candidates([audios[3]])).tolist() == [scores_PN[3, 4].item()]
    (spoken,) = verifier.recogniser.log_probabilities(audios[:1], [clips[0].text], "en")
    assert scores_PN[0, 1].item() == pytest.approx(spoken.mean()) and spoken.shape[0] > 3
    (longer,) = verifier.score(Prompt("k", f"{clips[0].text} banana"), candidates(audios[:1])).tolist()
    assert longer < scores_PN[0, 1]


def test_what_it_cannot_tell(verifier: TextProbability, clips: list[Recording]) -> None:
    """Guards against silence that beats wrong words, a language that stops a sweep, and NaN as the worst score."""
    good, before = clips[0].audio, verifier.num_failures
    bad = [torch.zeros(RATE), torch.zeros(10), torch.full((RATE,), float("nan")), torch.rand(RATE * 31)]
    group = candidates([good, *(Audio(samples_T, RATE) for samples_T in bad)])
    french = Prompt("k", clips[0].text, language="fr")
    first, second, third = verifier.score_many(
        [Prompt("k", clips[0].text), french, Prompt("k", clips[0].text)], [group, group[:1], group[:1]]
    )
    assert first.isnan().tolist() == [False, True, True, True, True]
    assert second.isnan().all() and third.tolist() == [first[0].item()]
    assert verifier.num_failures - before == 5
    with pytest.raises(ValueError, match=r"prompt 'k' to hold words, but got '\.\.\.'"):
        verifier.score(Prompt("k", "..."), group[:1])

    class Broken(Moonshine):
        def log_probabilities(self, audios, texts, language):
            return [torch.tensor([float("nan"), -1.0]).numpy()] * len(audios)

    broken = TextProbability(Broken())
    assert broken.score(Prompt("k", "text"), group[:1]).isnan().all() and broken.num_failures == 1


def test_it_is_no_judge_of_itself(verifier: TextProbability) -> None:
    """Guards against Moonshine's text as judge of candidates that its probability chose, and Whisper counted as kin."""
    facts, moonshine = verifier.facts, verifier.recogniser
    assert facts.model_hash == moonshine.model_hash and facts.families == moonshine.families
    assert not facts.families & FasterWhisper.families and facts.settings["files"] == moonshine.files_hash
    assert facts.settings["silence_seconds"] == 0.3 and facts.settings["noise_db"] == -45
