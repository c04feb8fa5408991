"""Samples speech codes, or the transcript of speech, with a KV cache: many candidates of many prompts in one batch.

Each prompt is processed and stored once, whatever the number of its candidates. The head is sliced to the words of an
answer. Finished rows are replaced by waiting ones (continuous batching), so short candidates do not wait for long ones.

Shapes: A layers, K key-value heads, S tokens, D head size, R rows, L tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modules.api import Branch, Prompt, PromptFormat, Sampler, SamplerEngine, SamplingSettings, WritesWords
from modules.lm.attention import find_segments
from modules.lm.flops import TransformerSize
from modules.lm.network import SpeechLanguageModel, model_hash
from modules.lm.sampling.decoding_batch import DecodingBatch, Row
from modules.lm.sampling.kv_cache import PrefillCache, Prefix
from modules.lm.sampling.row_graphs import RowGraphs
from modules.lm.text.answers import AnswerKind, answer_words
from modules.lm.text.prompt_format import encoded_prompt

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

_MAX_PREFILL_TOKENS = 8192


class KVCacheSampler:
    """A modules.api.Sampler over a Llama in this process.

    The code at position p of a candidate is sampled with one uniform number that is a function of (seed, p): a
    candidate is the same alone or in any batch, in one call or continued over several, up to floating-point ties. A
    single row is decoded with CUDA graphs where they can be captured (row_graphs.py).

    Forking, reordering and dropping branches recomputes nothing: a child starts from its prompt's cache, which is
    shared, and a copy of its parent's own cache. `num_recomputed_tokens` counts the tokens of branches that `extend`
    had to process again because they had been dropped; it stays 0 for a search that only extends branches it has kept.

    Args:
        network: From modules.lm.network.build_llama; each call uses its current weights.
        prompt_format: Layout of text and codes.
        settings: Sampling settings.
        max_batch_rows: Rows decoded together; bounds the memory.
        answer: "speech": codes for the prompt's text. "text": the transcript of the prompt's `voice`; the `codes_S` of
            a branch are then text tokens.
    """

    def __init__(
        self,
        network: LlamaForCausalLM,
        prompt_format: PromptFormat,
        settings: SamplingSettings,
        max_batch_rows: int = 64,
        answer: AnswerKind = "speech",
    ):
        if max_batch_rows < 1:
            raise ValueError(f"Expected `max_batch_rows` to be at least 1, but got {max_batch_rows}.")
        self.network = network
        self.prompt_format = prompt_format
        self.settings = settings
        self.max_batch_rows = max_batch_rows
        self.answer, self.words = answer, answer_words(prompt_format, answer)
        self.num_recomputed_tokens = 0
        self.row_graphs = RowGraphs(network, self.words, settings)

    # ------------------------------------------------------------------------------------------------------ protocol

    @torch.inference_mode()
    def start(self, prompts: Sequence[Prompt]) -> list[Branch]:
        """Return one branch without codes per prompt; a branch's codes exclude those of a spoken prompt.

        Raises ValueError for text that the tokenizer rejects, and for a `voice` that the codec has not encoded yet.
        """
        branches = [self.words.start(prompt) for prompt in prompts]
        self._prefill(branches)
        return branches

    @torch.inference_mode()
    def extend(
        self, branches: Sequence[Branch], num_children: int, max_new_tokens: int, seeds: Sequence[int]
    ) -> list[Branch]:
        """Return `num_children` longer copies of each branch, adjacent; a branch that has stopped is copied unchanged.

        At most `max_new_tokens` are sampled for each, including the end of speech. Branches that have not ended keep
        their cache until `drop`; one without a cache is recomputed.
        """
        if len(seeds) != len(branches) * num_children:
            raise ValueError(f"Expected `seeds` to hold {len(branches) * num_children} seeds, but got {len(seeds)}.")
        if max_new_tokens < 1:
            raise ValueError(f"Expected `max_new_tokens` to be at least 1, but got {max_new_tokens}.")
        self.num_recomputed_tokens += self._prefill([one for one in branches if not one.stopped and one.state is None])
        parents = [branch for branch in branches for _ in range(num_children)]
        written = [self._written(branch) for branch in branches for _ in range(num_children)]
        rows = [Row(one, one.state, seed, said) for one, seed, said in zip(parents, seeds, written, strict=True)]
        self._decode([row for row in rows if not row.branch.stopped], max_new_tokens)
        return [self._child(row) for row in rows]

    def drop(self, branches: Sequence[Branch]) -> None:
        for branch in branches:
            branch.state = None

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        return len(encoded_prompt(self.prompt_format, prompt, self.answer))

    def flops(self, num_prompt_tokens: int, num_codes: int) -> float:
        """FLOPs to process a prompt and sample `num_codes` tokens: 2 per weight and token, the attention, the sliced
        head.

        N candidates of one prompt cost flops(P, 0) + N * (flops(P, S) - flops(P, 0)): the prompt is processed once.
        """
        return TransformerSize.of(self.network).speech_flops(num_prompt_tokens, num_codes, self.words.num_words)

    # ------------------------------------------------------------------------------------------------------ prefill

    @property
    def _device(self) -> torch.device:
        return self.network.lm_head.weight.device

    def _prefill(self, branches: Sequence[Branch]) -> int:
        """Give each branch its Prefix. Returns the number of tokens processed. One forward pass processes many prompts,
        packed like training documents; a branch that occurs twice in the list is processed once."""
        num_tokens = 0
        pending: list[tuple[Branch, list[int]]] = []
        for branch in {id(branch): branch for branch in branches}.values():
            codes = self.words.tokens(self.words.units_of(branch)).tolist()
            pending.append((branch, encoded_prompt(self.prompt_format, branch.prompt, self.answer) + codes))
            num_tokens += len(pending[-1][1])
            if sum(len(tokens) for _, tokens in pending) >= _MAX_PREFILL_TOKENS:
                self._prefill_pack(pending)
                pending = []
        if pending:
            self._prefill_pack(pending)
        return num_tokens

    def _prefill_pack(self, pending: Sequence[tuple[Branch, list[int]]]) -> None:
        lengths = [len(tokens) - 1 for _, tokens in pending]  # the last token is fed by the first step
        cache = PrefillCache()

        def as_row(values: list[int]) -> Tensor:
            return torch.tensor([values], device=self._device)

        documents_RL = as_row([document for document, length in enumerate(lengths) for _ in range(length)])
        self.network.model(
            input_ids=as_row([token for _, tokens in pending for token in tokens[:-1]]),
            position_ids=as_row([position for length in lengths for position in range(length)]),
            past_key_values=cache,
            use_cache=True,
            segments=find_segments(documents_RL),
        )
        parts = cache.stacked()[:, :, 0].split(lengths, dim=3)
        for (branch, tokens), part in zip(pending, parts, strict=True):
            # A copy, because a view would keep every prompt of the pack.
            branch.state = Prefix.of_prompt(part.clone(), tokens[-1])

    # ------------------------------------------------------------------------------------------------------ decoding

    def _decode(self, rows: Sequence[Row], max_new_tokens: int) -> None:
        """Sample the tokens of all rows; finished rows are replaced by waiting ones."""
        waiting = list(reversed(rows))
        current: list[Row] = []
        while waiting or current:
            while waiting and len(current) < self.max_batch_rows:
                current.append(waiting.pop())
            if len(current) > 1 or not self.row_graphs.run(current[0], max_new_tokens):
                DecodingBatch(self.network, self.words, self.settings, current, max_new_tokens).run()
            remaining = []
            for row in current:
                if row.stopped:
                    continue
                if len(row.codes) < max_new_tokens:
                    remaining.append(row)
                else:
                    row.prefix = row.prefix.apart()
            current = remaining

    def _written(self, branch: Branch) -> list[int]:
        """The words that the answer has to contain, as tokens; with `force_words`."""
        if self.settings.force_words and self.words.num_written and isinstance(self.prompt_format, WritesWords):
            return self.prompt_format.written_tokens(branch.prompt.text)
        return []

    def _child(self, row: Row) -> Branch:
        state = None if row.branch.stopped or row.stopped else row.prefix
        return self.words.extended(row.branch, row.codes, row.log_probability, row.stopped, state)


def sampler_of(
    model: SpeechLanguageModel,
    prompt_format: PromptFormat,
    settings: SamplingSettings,
    engine: SamplerEngine | None = None,
    max_batch_rows: int = 64,
    answer: AnswerKind = "speech",
) -> Sampler:
    """The sampler of a model: `engine`'s, or a KVCacheSampler without one. Raises ValueError on text from an engine."""
    if engine is None:
        return KVCacheSampler(model.llama, prompt_format, settings, max_batch_rows, answer)
    if answer != "speech":
        raise ValueError(f"Expected `answer` to be speech with an engine of its own, but got {answer}.")
    return engine.sampler(model.llama, prompt_format, settings, model_hash(model, prompt_format.token_space))
