"""Records of what a report plays: clips of audio with their labels and scores, by prompt."""

from dataclasses import dataclass, field

from modules.api import Audio, Prompt


@dataclass(frozen=True)
class Clip:
    """Something to hear. `labels` says what it is: one sample may be the first and the choice of two selectors.

    `scores` by verifier (NaN = could not judge) and `heard`, what verifiers understood, hold those that were asked.
    """

    labels: list[str]
    audio: Audio
    scores: dict[str, float] = field(default_factory=dict)
    heard: dict[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Example:
    """One prompt with all its clips, in the order in which a listener wants them."""

    prompt_set: str
    prompt: Prompt
    clips: list[Clip]

    @property
    def seconds(self) -> float:
        """Of the longest clip: the common time axis of their pictures."""
        return max(clip.audio.seconds for clip in self.clips)
