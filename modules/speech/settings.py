"""How a text is spoken: the options that `say` and Python share."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from modules.api import SamplingSettings
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.algorithms.partial_beam import PartialBeam
from modules.search.algorithms.process_beam import ProcessBeam
from modules.search.protocol import SearchAlgorithm

SEARCHES = ("best_of_n", "prm", "partial_prm", "partial_prm_orm")  # of Llasa, as in configs/sweep/search
STEERED_SECONDS, BLOCK_SECONDS = 2.0, 0.5  # of its searches: 100 and 25 codes at 50 per second
DEFAULT_BEAMS = 4  # Llasa's 16 sample 256 beams at a time: hours on a laptop
SHORT_TEXT_CANDIDATES = 4


@dataclass(frozen=True)
class SpeakingSettings:
    """Options of one call.

    Args:
        seed: Seed of the samples.
        best_of: Number of candidates for each sentence; for the searches that steer the number of beams and of children
            of each. None: 1; 4 for texts of one or two words, where a recogniser is at hand; 4 beams.
        search: "best_of_n": independent samples, the recogniser chooses. Those of Llasa (arXiv 2502.04128, section 3.4)
            are steered by speaker similarity: "prm" to the end, "partial_prm" for the first two seconds; it also
            chooses. "partial_prm_orm", the winning one: as partial_prm, but the recogniser chooses.
        temperature: None: the model's own default.
        language: Language of the text, such as "en"; a region is left out.
        speaker: Name of a speaker, for models trained with names.
        reference: A recording whose voice is imitated.
        reference_text: What is said in it. None: transcribed.
        word_times: Align the words with the audio.
    """

    seed: int = 0
    best_of: int | None = None
    search: str = "best_of_n"
    temperature: float | None = None
    language: str = "en"
    speaker: str = ""
    reference: Path | None = None
    reference_text: str | None = None
    word_times: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "language", re.split("[-_]", self.language.strip().lower())[0])
        if self.search not in SEARCHES:
            raise ValueError(f"Expected `search` to be one of {', '.join(SEARCHES)}, but got {self.search!r}.")
        if self.best_of is not None and self.best_of < 1:
            raise ValueError(f"Expected `best_of` to be at least 1, but got {self.best_of}.")
        if self.reference_text and self.reference is None:
            raise ValueError("Expected a recording beside its text, but got the text alone: give `--voice` too.")
        if self.steers and self.reference is None:
            raise ValueError(
                f"Expected a recording to steer towards for the search {self.search}, but got none: give `--voice`."
            )

    @property
    def steers(self) -> bool:
        """Whether speaker similarity steers the search."""
        return self.search != "best_of_n"

    @property
    def chooses_by_speaker(self) -> bool:
        """Whether speaker similarity also chooses among the candidates."""
        return self.search in ("prm", "partial_prm")

    @property
    def num_candidates(self) -> int:
        """Candidates of each sentence; of a steered search, beams and children of each."""
        return self.best_of or (DEFAULT_BEAMS if self.steers else 1)

    @property
    def searches(self) -> bool:
        """Whether more than one sample is drawn for each sentence."""
        return self.steers or self.num_candidates > 1

    def sampling(self, default: SamplingSettings) -> SamplingSettings:
        return default if self.temperature is None else replace(default, temperature=self.temperature)

    def algorithm(self, num_candidates: int, max_new_tokens: int, frame_rate: float, reward: str) -> SearchAlgorithm:
        """The search of one sentence; `reward` names the verifier of speaker similarity."""
        steered, block = round(STEERED_SECONDS * frame_rate), round(BLOCK_SECONDS * frame_rate)
        if self.search == "prm":
            return ProcessBeam(reward, num_candidates, num_candidates, max_new_tokens, block)
        if not self.steers or max_new_tokens <= steered:
            return BestOfN(num_candidates, max_new_tokens)
        return PartialBeam(reward, num_candidates, num_candidates, 1, max_new_tokens, steered, block)
