"""Records of a report's audio examples: clips with their labels and scores, by prompt."""

from dataclasses import dataclass, field

from modules.api import Audio, Prompt


@dataclass(frozen=True)
class Clip:
    """An audio clip. `labels` describe it: one sample may be the first and the selection of two selectors.

    `scores` by verifier (NaN = could not be scored) and `heard`, transcripts by verifier, have the verifiers that
    scored it.
    """

    labels: list[str]
    audio: Audio
    scores: dict[str, float] = field(default_factory=dict)
    heard: dict[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Choice:
    """What one selector's choice among all samples changed, by a judge that is independent of it. Scores are the
    judge's; its worst one for a sample that never ended or could not be judged. `as_error`: the page shows 1 - score.
    """

    selector: str
    judge: str
    num_candidates: int
    first_score: float
    chosen_score: float
    is_first: bool  # the first sample was chosen
    as_error: bool = False

    @property
    def change(self) -> float:
        """Of the judge's score; 0 also between two infinite ones."""
        return 0.0 if self.chosen_score == self.first_score else self.chosen_score - self.first_score


@dataclass(frozen=True)
class Example:
    """One prompt with its clips, in listening order: those to compare, and `more`. `choice` is None where no selector
    is independent of a judge."""

    prompt_set: str
    prompt: Prompt
    clips: list[Clip]
    more: list[Clip] = field(default_factory=list)
    choice: Choice | None = None

    @property
    def seconds(self) -> float:
        """Seconds of the longest clip: the common time axis of the spectrograms."""
        return max(clip.audio.seconds for clip in [*self.clips, *self.more])
