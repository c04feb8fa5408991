"""Words of an answer: the slice of the head that a sampler samples from, and the word that ends the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from modules.api import Branch, Prompt, PromptFormat, WritesWords

AnswerKind = Literal["speech", "text"]


@dataclass(frozen=True)
class AnswerWords:
    """`num_units` units with ids from `offset` on (the codes, or the text tokens), and the id of `end`. `num_written`
    text tokens, with ids from 0 on, may stand between codes; their units are negative.

    The head is sliced to the rows from the lowest to the highest of them: a view, because they are close together.
    """

    offset: int
    num_units: int
    end: int
    num_written: int = 0

    @property
    def allowed(self) -> list[tuple[int, int]]:
        """Ranges [start, stop) of ids that may be sampled, ascending."""
        ranges = [(self.offset, self.offset + self.num_units), (self.end, self.end + 1)]
        return sorted([*ranges, (0, self.num_written)] if self.num_written else ranges)

    @property
    def first(self) -> int:
        """Id of the first row of the sliced head."""
        return self.allowed[0][0]

    @property
    def stop(self) -> int:
        """Id after its last row."""
        return self.allowed[-1][1]

    @property
    def num_words(self) -> int:
        """Number of words that may be sampled."""
        return self.num_units + 1 + self.num_written

    def forbid_others(self, logits_RV: Tensor) -> None:
        """Set -inf, in place, for markers in the sliced head that are not part of an answer."""
        for (_, before), (after, _) in zip(self.allowed, self.allowed[1:], strict=False):
            logits_RV[:, before - self.first : after - self.first] = float("-inf")

    def tokens(self, units_S: Tensor) -> Tensor:
        """Return the ids of units."""
        return units_S.to(torch.int64) + self.offset

    def units_of(self, branch: Branch) -> Tensor:
        """All units that were sampled for a branch, without the end."""
        return branch.codes_S if branch.tokens_S is None else branch.tokens_S - self.offset

    def start(self, prompt: Prompt) -> Branch:
        """A branch without units."""
        empty_S = torch.empty(0, dtype=torch.int64)
        return Branch(prompt, empty_S, tokens_S=empty_S if self.num_written else None)

    def extended(
        self, branch: Branch, units: Sequence[int], log_probability: float, stopped: bool, state: object = None
    ) -> Branch:
        """A longer copy of a branch; `log_probability` is that of the new units and the end."""
        new_S = torch.tensor(units, dtype=torch.int64)
        codes_S = torch.cat([branch.codes_S, new_S[new_S >= 0]])
        tokens_S = None if branch.tokens_S is None else torch.cat([branch.tokens_S, self.tokens(new_S)])
        total = branch.log_probability + log_probability
        return Branch(branch.prompt, codes_S, total, branch.stopped or stopped, state, tokens_S)


def answer_words(prompt_format: PromptFormat, kind: AnswerKind) -> AnswerWords:
    """Return codes and the end of speech, with text tokens between them where the format writes words; or text tokens
    and the end of text."""
    space = prompt_format.token_space
    if kind == "text":
        return AnswerWords(0, space.text_vocab_size, space.marker("<|TEXT_GENERATION_END|>"))
    num_written = space.text_vocab_size if isinstance(prompt_format, WritesWords) else 0
    return AnswerWords(space.code_offset, space.codebook_size, space.speech_end, num_written)
