"""A batch of rows that are decoded together until enough of them have finished.

Shapes: R rows, V words of the sliced head (end of speech, the markers before code 0, which are never sampled, the
codes), A layers, K key-value heads, S tokens, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modules.api import Branch, SamplingSettings
from modules.lm.sampling.distribution import draw_restricted, penalised
from modules.lm.sampling.kv_cache import Prefix, RowCache
from modules.lm.sampling.noise import seed_tensor, uniform_noise
from modules.lm.sampling.onednn_linear import weight_product
from modules.lm.sampling.word_grammar import WordGrammar
from modules.lm.text.answers import AnswerWords

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from modules.lm.sampling.row_graphs import FixedCache

_MAX_FREE_COLUMNS = 128
_ENDED_FRACTION = 0.25  # fraction of rows that must have finished before the rest is copied into another batch


@dataclass
class Row:
    """One child that is being sampled from `branch`. `codes` and `log_probability` are those sampled here.

    `prefix` is the parent's and, after the row has left a batch unfinished, its own. `written`: the tokens of the words
    that the answer has to contain, with `force_words`.
    """

    branch: Branch
    prefix: Prefix
    seed: int
    written: Sequence[int] = ()
    codes: list[int] = field(default_factory=list)
    log_probability: float = 0.0
    stopped: bool = False

    def append(self, word: int, log_probability: float, words: AnswerWords) -> None:
        """Add a sampled word of the sliced head."""
        self.log_probability += log_probability
        if word == words.end - words.first:
            self.stopped = True
        else:
            self.codes.append(word + words.first - words.offset)

    def num_written(self, words: AnswerWords) -> int:
        """Number of text tokens in the answer so far."""
        return int((words.units_of(self.branch) < 0).sum()) + sum(code < 0 for code in self.codes)


class DecodingBatch:
    """Rows that grow by one token per step.

    Args:
        network: Its weights are shared.
        words: The words that may be sampled, and their place in the head. Its units are called codes here.
        settings: Sampling settings.
        rows: Rows to decode; filled in by `run`.
        max_new_tokens: Maximum number of tokens sampled for a row, over all its batches.
    """

    def __init__(
        self,
        network: LlamaForCausalLM,
        words: AnswerWords,
        settings: SamplingSettings,
        rows: Sequence[Row],
        max_new_tokens: int,
    ):
        self.network, self.words, self.settings = network, words, settings
        self.rows, self.max_new_tokens = rows, max_new_tokens
        device = network.lm_head.weight.device
        num_free_columns = min(_MAX_FREE_COLUMNS, max(max_new_tokens - len(row.codes) for row in rows))
        self.cache = RowCache([row.prefix for row in rows], num_free_columns)
        self.num_first_codes = [len(row.codes) for row in rows]
        self.tokens_R = torch.tensor([row.prefix.last_token for row in rows], device=device)
        self.positions_R = torch.tensor([row.prefix.num_tokens for row in rows], device=device)
        self.code_positions_R = torch.tensor([row.branch.num_tokens + len(row.codes) for row in rows], device=device)
        self.seeds_R = seed_tensor([row.seed for row in rows], device)
        self.seen_RV = seen_words(rows, words).to(device) if settings.repetition_penalty != 1 else None
        self.grammar: WordGrammar | None = None
        if settings.force_words and words.num_written:
            self.grammar = WordGrammar(words, len(rows), max(len(row.written) for row in rows), device)
            self.grammar.load([row.written for row in rows], [row.num_written(words) for row in rows])
        # On a CPU rows are checked after every step; elsewhere each check would synchronise with the device.
        self.num_steps_per_look = 1 if device.type == "cpu" else 16

    def run(self) -> None:
        """Decode until a quarter of the rows have finished or the cache is full. Stores each row's state in it."""
        num_ended = 0
        while num_ended == 0 or num_ended < _ENDED_FRACTION * len(self.rows):
            num_steps = min(self.num_steps_per_look, self.cache.num_free_columns)
            if num_steps == 0:
                break
            words, log_probabilities = zip(*(self._step() for _ in range(num_steps)), strict=True)
            self._record(torch.stack(words).tolist(), torch.stack(log_probabilities).tolist())
            num_ended = sum(self._has_ended(row) for row in self.rows)
        for index, row in enumerate(self.rows):
            if not row.stopped:
                num_new_tokens = len(row.codes) - self.num_first_codes[index]
                row.prefix = self.cache.prefix(index, num_new_tokens, self.words.offset + row.codes[-1])

    def _has_ended(self, row: Row) -> bool:
        return row.stopped or len(row.codes) == self.max_new_tokens

    def _step(self) -> tuple[Tensor, Tensor]:
        """Sample the next token of every row, see `sampled_words`."""
        state = self.tokens_R, self.positions_R, self.code_positions_R, self.seeds_R, self.seen_RV, self.grammar
        words_R, log_probabilities_R = sampled_words(self.network, self.words, self.settings, self.cache, *state)
        self.cache.advance()
        self.tokens_R = words_R + self.words.first
        self.positions_R = self.positions_R + 1
        self.code_positions_R = self.code_positions_R + 1
        return words_R, log_probabilities_R

    def _record(self, words: list[list[int]], log_probabilities: list[list[float]]) -> None:
        """Append the sampled tokens to the rows, without those after a row's end."""
        for step_words, step_log_probabilities in zip(words, log_probabilities, strict=True):
            for row, word, log_probability in zip(self.rows, step_words, step_log_probabilities, strict=True):
                if not self._has_ended(row):
                    row.append(word, log_probability, self.words)


def seen_words(rows: Sequence[Row], words: AnswerWords) -> Tensor:
    """Return (R, V), True for the codes that each row already contains."""
    seen_RV = torch.zeros(len(rows), words.stop - words.first, dtype=torch.bool)
    for seen_V, row in zip(seen_RV, rows, strict=True):
        codes_S = torch.cat([words.units_of(row.branch), torch.tensor(row.codes, dtype=torch.int64)])
        seen_V[words.tokens(codes_S[codes_S >= 0]) - words.first] = True
    return seen_RV


def sampled_words(
    network: LlamaForCausalLM,
    words: AnswerWords,
    settings: SamplingSettings,
    cache: RowCache | FixedCache,
    tokens_R: Tensor,
    positions_R: Tensor,
    code_positions_R: Tensor,
    seeds_R: Tensor,
    seen_RV: Tensor | None,
    grammar: WordGrammar | None,
) -> tuple[Tensor, Tensor]:
    """Feed each row's last token and sample the next. Returns its word of the sliced head and its log-probability, and
    adds the word to `seen_RV` and `grammar`."""
    hidden = network.model(
        input_ids=tokens_R[:, None],
        attention_mask=cache.attention_mask(),
        position_ids=positions_R[:, None],
        past_key_values=cache,
        use_cache=True,
        roots=cache.roots,
    ).last_hidden_state[:, 0]
    head = network.lm_head.weight[words.first : words.stop]  # a view
    logits_RV = weight_product(hidden, head).float()
    words.forbid_others(logits_RV)
    wanted_RV = logits_RV if seen_RV is None else penalised(logits_RV, seen_RV, settings.repetition_penalty)
    if grammar is not None:
        wanted_RV = grammar.restricted(wanted_RV)
    words_R = draw_restricted(wanted_RV, settings, uniform_noise(seeds_R, code_positions_R))
    if grammar is not None:
        grammar.advance(words_R)
    if seen_RV is not None:
        seen_RV.scatter_(1, words_R[:, None], True)
        seen_RV[:, : words.num_written] = False  # words recur; `first` is 0 where any are written
    return words_R, logits_RV.log_softmax(-1).gather(1, words_R[:, None]).squeeze(1)
