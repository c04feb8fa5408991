"""Decoding one row with CUDA graphs: eagerly, launching the kernels of a step takes longer than they run.

A graph replays kernels of fixed shapes, so the row's cache has one of few widths and later columns are masked. The
width is a function of the position alone: a candidate is the same in one call or continued over several.

Shapes: R one row, V words of the sliced head, W columns; others as in kv_cache.py.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modules.api import SamplingSettings
from modules.lm.sampling.decoding_batch import Row, sampled_words, seen_words
from modules.lm.sampling.kv_cache import Prefix
from modules.lm.sampling.noise import seed_tensor
from modules.lm.sampling.word_grammar import WordGrammar
from modules.lm.text.answers import AnswerWords

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

logger = logging.getLogger(__name__)

_SMALLEST_WIDTH = 256
_NUM_STEPS_PER_LOOK = 16  # each look synchronises with the device


class FixedCache:
    """Cache of one row with all its columns; the token at position p is in column p. See RowCache."""

    roots = None

    def __init__(self, like_A2KSD: Tensor, width: int, column_R: Tensor) -> None:
        num_layers, _, num_heads, _, head_size = like_A2KSD.shape
        self.data = like_A2KSD.new_zeros((num_layers, 2, 1, num_heads, width, head_size))
        self.columns_W = torch.arange(width, device=like_A2KSD.device)
        self.column_R = column_R

    def attention_mask(self) -> Tensor:
        return (self.columns_W <= self.column_R)[None, None, None]

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, **kwargs: object) -> tuple[Tensor, Tensor]:
        layer = self.data[layer_idx]
        for part, new in zip(layer, (keys, values), strict=True):
            part.index_copy_(2, self.column_R, new)
        return layer[0], layer[1]


class FixedStep:
    """The step of one row in a cache of `width` columns, whose inputs and outputs keep their addresses.

    Raises RuntimeError if its graph cannot be captured.
    """

    def __init__(
        self,
        network: LlamaForCausalLM,
        words: AnswerWords,
        settings: SamplingSettings,
        like_A2KSD: Tensor,
        width: int,
        capture: bool,
    ) -> None:
        self.network, self.words, self.settings, self.width = network, words, settings, width
        device = like_A2KSD.device
        self.tokens_R, self.positions_R, self.code_positions_R, self.seeds_R = torch.zeros(
            4, 1, dtype=torch.int64, device=device
        )
        self.words_W = torch.zeros(width, dtype=torch.int64, device=device)
        self.log_probabilities_W = torch.zeros(width, device=device)
        penalises = settings.repetition_penalty != 1
        self.seen_RV = torch.zeros(1, words.stop - words.first, dtype=torch.bool, device=device) if penalises else None
        self.grammar = WordGrammar(words, 1, width, device) if settings.force_words and words.num_written else None
        self.cache = FixedCache(like_A2KSD, width, self.positions_R)
        self.graph = self._captured() if capture else None

    def _captured(self) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # libraries initialise themselves in the first calls
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._step()
        return graph

    def _step(self) -> None:
        state = self.tokens_R, self.positions_R, self.code_positions_R, self.seeds_R, self.seen_RV, self.grammar
        words_R, log_probabilities_R = sampled_words(self.network, self.words, self.settings, self.cache, *state)
        self.words_W.index_copy_(0, self.positions_R, words_R)
        self.log_probabilities_W.index_copy_(0, self.positions_R, log_probabilities_R)
        self.tokens_R.copy_(words_R + self.words.first)
        self.positions_R.add_(1)
        self.code_positions_R.add_(1)

    def run(self, row: Row, max_new_tokens: int) -> None:
        """Sample until the row has ended or the columns are full."""
        start, num_first_codes = row.prefix.num_tokens, len(row.codes)
        self._load(row)
        stop = min(self.width, start + max_new_tokens - num_first_codes)
        for first in range(start, stop, _NUM_STEPS_PER_LOOK):
            last = min(first + _NUM_STEPS_PER_LOOK, stop)
            for _ in range(first, last):
                self._step() if self.graph is None else self.graph.replay()
            drawn = self.words_W[first:last].tolist(), self.log_probabilities_W[first:last].tolist()
            for word, log_probability in zip(*drawn, strict=True):
                if not row.stopped:
                    row.append(word, log_probability, self.words)
            if row.stopped:
                return
        root = row.prefix.root_A2KSD
        tail = self.cache.data[:, :, 0, :, root.shape[3] : stop].clone()
        row.prefix = Prefix(root, tail, self.words.offset + row.codes[-1])

    def _load(self, row: Row) -> None:
        prefix = row.prefix
        num_root_tokens = prefix.root_A2KSD.shape[3]
        self.cache.data[:, :, 0, :, :num_root_tokens] = prefix.root_A2KSD
        self.cache.data[:, :, 0, :, num_root_tokens : prefix.num_tokens] = prefix.tail_A2KSD
        self.tokens_R.fill_(prefix.last_token)
        self.positions_R.fill_(prefix.num_tokens)
        self.code_positions_R.fill_(row.branch.num_tokens + len(row.codes))
        self.seeds_R.copy_(seed_tensor([row.seed]))
        if self.seen_RV is not None:
            self.seen_RV.copy_(seen_words([row], self.words))
        if self.grammar is not None:
            self.grammar.load([row.written], [row.num_written(self.words)])


class RowGraphs:
    """The steps of one network, by width, captured when first needed.

    Args:
        network, words, settings: As of DecodingBatch.
        capture: False runs the same kernels without graphs, on any device.
    """

    def __init__(
        self, network: LlamaForCausalLM, words: AnswerWords, settings: SamplingSettings, capture: bool = True
    ) -> None:
        self.network, self.words, self.settings, self.capture = network, words, settings, capture
        self._steps: dict[int, FixedStep] = {}
        self._addresses: tuple[int, ...] = ()
        self._has_failed = False

    @property
    def widths(self) -> list[int]:
        return sorted(self._steps)

    def run(self, row: Row, max_new_tokens: int) -> bool:
        """Sample for the row until it has ended or its columns are full. False: nothing was done, as no graph can."""
        if not self._is_usable():
            return False
        width = _SMALLEST_WIDTH
        while width <= row.prefix.num_tokens:
            width *= 2
        if width not in self._steps:
            try:
                self._steps[width] = FixedStep(
                    self.network, self.words, self.settings, row.prefix.root_A2KSD, width, self.capture
                )
            except RuntimeError as error:
                logger.warning("single rows are sampled without CUDA graphs: %s", str(error).splitlines()[0])
                self._has_failed = True
                return False
        self._steps[width].run(row, max_new_tokens)
        return True

    def _is_usable(self) -> bool:
        """Graphs hold addresses: they are captured anew for weights at others, and not at all for weights that are
        gathered or cast in each step."""
        if not self.capture:
            return True
        if self._has_failed or not self.network.lm_head.weight.is_cuda or torch.is_autocast_enabled("cuda"):
            return False
        from torch.distributed.tensor import DTensor  # here: it takes seconds of a program's start

        tensors = [*self.network.parameters(), *self.network.buffers()]
        if any(isinstance(tensor, DTensor) or not tensor.is_cuda for tensor in tensors):
            return False
        addresses = tuple(tensor.data_ptr() for tensor in tensors)
        if addresses != self._addresses:
            self._steps, self._addresses = {}, addresses
        return True
