"""Samples speech codes with vLLM: a branch is a list of token ids, which its prefix cache recognises.

The engine is started by modules/lm/sampling/vllm_engine.py; this file imports vLLM only when codes are sampled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modules.api import Branch, Prompt, PromptFormat, SamplingSettings
from modules.lm.flops import TransformerSize
from modules.lm.text.answers import answer_words
from modules.lm.text.prompt_format import encoded_prompt

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput

MIN_TEMPERATURE = 0.01  # vLLM raises lower values to this


class VLLMSampler:
    """A modules.api.Sampler over a running vLLM that samples the words of an answer only: codes, the end of speech,
    and text tokens where the format writes words.

    A candidate is a function of its seed and of the number of codes that its branch begins with: the same in any batch,
    up to floating-point ties. Samples differ from KVCacheSampler's, but have the same distribution.

    A child is a request with its parent's tokens as the prompt. vLLM's prefix cache keeps processed and sampled tokens,
    in whole blocks, as long as there is room: N children process their prompt once, except the block in which it ends.
    `num_read_tokens` counts all processed tokens. `drop` does nothing: the cache evicts by itself.

    Args:
        llm: A running engine whose logits are restricted to these.
        prompt_format: Layout of text and codes.
        settings: Sampling settings.
        size: Sizes of the network, for its FLOPs.

    Raises:
        ValueError: For settings that vLLM interprets differently.
    """

    def __init__(self, llm: LLM, prompt_format: PromptFormat, settings: SamplingSettings, size: TransformerSize):
        check_settings(settings)
        self.words = answer_words(prompt_format, "speech")
        if self.words.num_written and settings.repetition_penalty != 1:
            raise ValueError(
                f"Expected `repetition_penalty` to be 1 under vLLM, which would penalise the words that the model has "
                f"to write, but got {settings.repetition_penalty}."
            )
        self.llm, self.prompt_format, self.settings, self.size = llm, prompt_format, settings, size
        self.max_tokens = int(llm.model_config.max_model_len)
        self.num_read_tokens = 0

    # ------------------------------------------------------------------------------------------------------ protocol

    def start(self, prompts: Sequence[Prompt]) -> list[Branch]:
        """Return one branch without codes per prompt; nothing is processed before the first `extend`.

        Raises ValueError for text that the tokenizer rejects, for a `voice` that the codec has not encoded yet, and for
        a spoken prompt under a repetition penalty, which vLLM would apply to the prompt's codes too.
        """
        for prompt in prompts:
            if prompt.voice is not None and self.settings.repetition_penalty != 1:
                raise ValueError(
                    f"Expected `repetition_penalty` to be 1 for spoken prompts under vLLM, but got "
                    f"{self.settings.repetition_penalty} for prompt {prompt.key!r}."
                )
            encoded_prompt(self.prompt_format, prompt)
        return [self.words.start(prompt) for prompt in prompts]

    def extend(
        self, branches: Sequence[Branch], num_children: int, max_new_tokens: int, seeds: Sequence[int]
    ) -> list[Branch]:
        """Return `num_children` longer copies of each branch, adjacent; a branch that has stopped is copied unchanged.

        At most `max_new_tokens` are sampled for each, including the end of speech. Raises ValueError if a sequence
        would not fit in the engine's `max_model_len`.
        """
        if len(seeds) != len(branches) * num_children:
            raise ValueError(f"Expected `seeds` to hold {len(branches) * num_children} seeds, but got {len(seeds)}.")
        if max_new_tokens < 1:
            raise ValueError(f"Expected `max_new_tokens` to be at least 1, but got {max_new_tokens}.")
        sequences = [[] if branch.stopped else self._tokens(branch, max_new_tokens) for branch in branches]
        jobs = [
            (place, branches[place // num_children], sequences[place // num_children], seed)
            for place, seed in enumerate(seeds)
            if not branches[place // num_children].stopped
        ]
        outputs = self._generate(
            [tokens for _, _, tokens, _ in jobs],
            [request_seed(seed, branch.num_tokens) for _, branch, _, seed in jobs],
            max_new_tokens,
        )
        children = [branches[place // num_children] for place in range(len(seeds))]
        children = [replace(one, state=None) for one in children]
        for (place, branch, _, _), output in zip(jobs, outputs, strict=True):
            children[place] = self._child(branch, output)
        return children

    def drop(self, branches: Sequence[Branch]) -> None:
        """Do nothing: vLLM's cache evicts by itself."""

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        return len(encoded_prompt(self.prompt_format, prompt))

    def flops(self, num_prompt_tokens: int, num_codes: int) -> float:
        """Same count as KVCacheSampler: the FLOPs of the model, independent of the engine."""
        return self.size.speech_flops(num_prompt_tokens, num_codes, self.words.num_words)

    # ------------------------------------------------------------------------------------------------------ requests

    def _tokens(self, branch: Branch, max_new_tokens: int) -> list[int]:
        sampled_S = self.words.tokens(self.words.units_of(branch))
        tokens = encoded_prompt(self.prompt_format, branch.prompt) + sampled_S.tolist()
        if len(tokens) + max_new_tokens > self.max_tokens:
            raise ValueError(
                f"Expected {len(tokens)} tokens of prompt {branch.prompt.key!r} and {max_new_tokens} new ones to fit "
                f"in the engine's `max_model_len`, but got {self.max_tokens}."
            )
        return tokens

    def _generate(
        self, sequences: Sequence[list[int]], seeds: Sequence[int], max_new_tokens: int
    ) -> list[RequestOutput]:
        if not sequences:
            return []
        from vllm import SamplingParams

        wanted = request_settings(self.settings, self.prompt_format.token_space.speech_end, max_new_tokens)
        outputs = self.llm.generate(
            [{"prompt_token_ids": tokens} for tokens in sequences],
            [SamplingParams(**wanted, seed=seed) for seed in seeds],
            use_tqdm=False,
        )
        self.num_read_tokens += sum(
            len(tokens) - (output.num_cached_tokens or 0) for tokens, output in zip(sequences, outputs, strict=True)
        )
        return outputs

    def _child(self, parent: Branch, output: RequestOutput) -> Branch:
        answer = output.outputs[0]
        tokens = list(answer.token_ids)
        stopped = bool(tokens) and tokens[-1] == self.words.end
        if not all(any(start <= token < stop for start, stop in self.words.allowed) for token in tokens):
            raise RuntimeError(f"Expected vLLM to draw the words of an answer only, but got the tokens {tokens}.")
        units = [token - self.words.offset for token in (tokens[:-1] if stopped else tokens)]
        return self.words.extended(parent, units, float(answer.cumulative_logprob), stopped)


def request_seed(seed: int, num_codes: int) -> int:
    """Seed of a request, in [0, 2**63), so that continuing a branch with its own seed uses new noise.

    vLLM restarts its noise with each request; the same seed would repeat the noise of the first codes.
    """
    digest = hashlib.sha256(f"{seed}\n{num_codes}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def request_settings(settings: SamplingSettings, speech_end: int, max_new_tokens: int) -> dict[str, Any]:
    """Arguments of vLLM's SamplingParams: its logits are already restricted, its text is not needed."""
    return {
        "temperature": settings.temperature,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "min_p": settings.min_p,
        "repetition_penalty": settings.repetition_penalty,
        "max_tokens": max_new_tokens,
        "stop_token_ids": [speech_end],
        "logprobs": 0,  # of the sampled token only
        "detokenize": False,
    }


def check_settings(settings: SamplingSettings) -> None:
    """Raise ValueError for settings under which vLLM's distribution would differ from KVCacheSampler's."""
    if settings.temperature < MIN_TEMPERATURE:
        raise ValueError(
            f"Expected `temperature` to be at least {MIN_TEMPERATURE} under vLLM, but got {settings.temperature}."
        )
    if settings.force_words:
        raise ValueError("Expected `force_words` to be false under vLLM, which has no grammar of words here.")
    if settings.min_p > 0 and settings.top_p < 1:  # vLLM applies the nucleus after min_p
        raise ValueError(
            f"Expected `min_p` or `top_p` under vLLM, whose nucleus comes after `min_p`, but got {settings.min_p} and "
            f"{settings.top_p}."
        )
