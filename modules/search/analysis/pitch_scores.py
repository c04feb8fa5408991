"""Opinion scores of a sweep by the pitch of the voice: judges that predict them respond to it (modules/pitch.py)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from modules.api import Prompt
from modules.pitch import by_pitch, median_pitch, pitch_correlation
from modules.search.analysis.expected_best_of_n import CurvePoint


@dataclass(frozen=True)
class PitchScore:
    """The mean score of a point of a curve over the prompts of one group of voices: a row of pitch.csv. `correlation`
    is that of all scores of the point with the pitch."""

    prompt_set: str
    algorithm: str
    temperature: float
    selector: str
    judge: str
    n: int
    group: str
    low_hz: float
    high_hz: float
    num_prompts: int
    score: float
    correlation: float
    model: str = ""


def pitch_scores(
    points: Sequence[CurvePoint], prompts: Mapping[str, Sequence[Prompt]], opinion_judges: Collection[str]
) -> list[PitchScore]:
    """Rows of every point of the judges that predict opinion scores, by the pitch of each prompt's `reference`; none if
    no prompt has one. `prompts`: by set, in the order of `scores_P`."""
    judged = [point for point in points if point.judge in opinion_judges and len(point.scores_P)]
    pitches = {
        name: [median_pitch(prompt.reference) for prompt in prompts[name]]
        for name in dict.fromkeys(point.prompt_set for point in judged)
    }
    rows = []
    for point in judged:
        own, scores = pitches[point.prompt_set], point.scores_P.tolist()
        about = (point.prompt_set, point.algorithm, point.temperature, point.selector, point.judge, point.n)
        correlation = pitch_correlation(own, scores)
        for one in by_pitch(own, scores):
            group = (one.group.name, one.group.low, one.group.high)
            rows.append(PitchScore(*about, *group, one.num, one.mean, correlation, point.model))
    return rows
