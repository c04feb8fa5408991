"""Words of an answer: the slice of the head that a sampler samples from, and the word that ends the answer."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from modules.tokens import TokenSpace

AnswerKind = Literal["speech", "text"]


@dataclass(frozen=True)
class AnswerWords:
    """`num_units` units with ids from `offset` on (the codes, or the text tokens), and the id of `end`.

    The head is sliced to the rows from the lowest to the highest of them: a view, because they are close together.
    """

    offset: int
    num_units: int
    end: int

    @property
    def first(self) -> int:
        """Id of the first row of the sliced head."""
        return min(self.offset, self.end)

    @property
    def stop(self) -> int:
        """Id after its last row."""
        return max(self.offset + self.num_units, self.end + 1)

    def forbid_others(self, logits_RV: Tensor) -> None:
        """Set -inf, in place, for markers in the sliced head that are not part of an answer."""
        if self.end < self.offset:
            logits_RV[:, self.end + 1 - self.first : self.offset - self.first] = float("-inf")
        else:
            logits_RV[:, self.offset + self.num_units - self.first : self.end - self.first] = float("-inf")

    def tokens(self, units_S: Tensor) -> Tensor:
        """Return the ids of units."""
        return units_S.to(torch.int64) + self.offset


def answer_words(space: TokenSpace, kind: AnswerKind) -> AnswerWords:
    """Return codes and the end of speech, or text tokens and the end of text."""
    if kind == "speech":
        return AnswerWords(space.code_offset, space.codebook_size, space.speech_end)
    return AnswerWords(0, space.text_vocab_size, space.marker("<|TEXT_GENERATION_END|>"))
