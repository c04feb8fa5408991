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
class Example:
    """One prompt with all its clips, in listening order."""

    prompt_set: str
    prompt: Prompt
    clips: list[Clip]

    @property
    def seconds(self) -> float:
        """Seconds of the longest clip: the common time axis of the spectrograms."""
        return max(clip.audio.seconds for clip in self.clips)
