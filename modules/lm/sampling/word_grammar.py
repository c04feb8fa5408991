"""WordGrammar: which tokens may follow in an answer that writes each word of its text before the codes of that word.

Shapes: R rows, L written tokens of the longest text and one column more, V words of the sliced head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.lm.text.answers import AnswerWords

_NONE = -1  # no token is left to write


class WordGrammar:
    """The answers that contain the words of the text, all of them and in order: a word that has begun goes on to its
    end; after it stand codes, or the next word; after the last one, codes or the end. Tensors keep their addresses.

    Args:
        words: The words of the sliced head.
        num_rows: Number of answers.
        max_written: Maximum number of written tokens of an answer.
        device: Device of the logits.
    """

    def __init__(self, words: AnswerWords, num_rows: int, max_written: int, device: torch.device) -> None:
        self.words = words
        self.written_RL = torch.full((num_rows, max_written + 1), _NONE, device=device)
        self.within_word_RL = torch.zeros(num_rows, max_written + 1, dtype=torch.bool, device=device)
        self.num_written_R1 = torch.zeros(num_rows, 1, dtype=torch.int64, device=device)

    def load(self, written: Sequence[Sequence[int]], num_written: Sequence[int]) -> None:
        """Set the tokens that each answer has to write, words with the separator (their last token) after each, and how
        many of them it contains already."""
        self.written_RL.fill_(_NONE)
        self.within_word_RL.zero_()
        for row, tokens in enumerate(written):
            self.written_RL[row, : len(tokens)] = torch.tensor(tokens)
            ends = [True, *(token != tokens[-1] for token in tokens)]  # at the start the first word has begun
            self.within_word_RL[row, : len(ends)] = torch.tensor(ends)
        self.num_written_R1.copy_(torch.tensor(num_written)[:, None])

    def restricted(self, logits_RV: Tensor) -> Tensor:
        """The logits, -inf for tokens that may not follow."""
        words, first = self.words, self.words.first
        next_R1 = self.written_RL.gather(1, self.num_written_R1)
        between_R1 = ~self.within_word_RL.gather(1, self.num_written_R1)
        allowed_RV = torch.zeros_like(logits_RV, dtype=torch.bool)
        allowed_RV[:, words.offset - first : words.offset - first + words.num_units] = between_R1
        allowed_RV[:, words.end - first] = (next_R1 == _NONE)[:, 0]
        allowed_RV.scatter_(1, (next_R1 - first).clamp(min=0), next_R1 != _NONE)
        return logits_RV.masked_fill(~allowed_RV, float("-inf"))

    def advance(self, words_R: Tensor) -> None:
        """Count the sampled words of the sliced head that were written."""
        self.num_written_R1.add_(words_R[:, None] + self.words.first == self.written_RL.gather(1, self.num_written_R1))
