"""Training documents and the prompts that begin them: which token stands where, and which are learned.

A document is (tokens, number of first tokens without loss). What the model reads at inference is the document's part
without loss, to the token: training and inference cannot differ. Llasa's markers (arXiv 2502.04128) say who does what:
TEXT_UNDERSTANDING text is read, SPEECH_GENERATION codes are spoken, SPEECH_UNDERSTANDING codes are heard,
TEXT_GENERATION text is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modules.api import Prompt, PromptFormat
from modules.lm.answers import AnswerKind
from modules.tokens import TokenSpace

Document = tuple[list[int], int]


@dataclass(frozen=True)
class Frame:
    """What stands around a request and its answer: `opening` before the request, `turn` between the two."""

    opening: tuple[int, ...] = ()
    turn: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        return len(self.opening) + len(self.turn)


def code_tokens(space: TokenSpace, codes: Sequence[int], text: str) -> list[int]:
    """Ids of codes. Raises ValueError where there are none, or one lies outside [0, codebook_size)."""
    if not len(codes):
        raise ValueError(f"Expected `codes` to hold at least one code, but got none for {text!r}.")
    codes_S = np.asarray(codes).astype(np.int64)
    lowest, highest = int(codes_S.min()), int(codes_S.max())
    if lowest < 0 or highest >= space.codebook_size:
        raise ValueError(
            f"Expected `codes` in [0, `codebook_size`={space.codebook_size}), but got {lowest} to {highest}."
        )
    return (codes_S + space.code_offset).tolist()


def synthesis_prompt(
    space: TokenSpace, frame: Frame, text_tokens: Sequence[int], answer_prefix_tokens: Sequence[int] = ()
) -> list[int]:
    """Text is read, and speech begins, after what the answer says before it."""
    request = [space.text_start, *text_tokens, space.text_end]
    return [*frame.opening, *request, *frame.turn, *answer_prefix_tokens, space.speech_start]


def understanding_prompt(space: TokenSpace, frame: Frame, speech_tokens: Sequence[int]) -> list[int]:
    """Speech is heard, and text begins."""
    start = space.marker("<|SPEECH_UNDERSTANDING_START|>")
    request = [start, *speech_tokens, space.marker("<|SPEECH_UNDERSTANDING_END|>")]
    return [*frame.opening, *request, *frame.turn, space.marker("<|TEXT_GENERATION_START|>")]


def prompt_tokens(prompt_format: PromptFormat, prompt: Prompt, answer: AnswerKind = "speech") -> list[int]:
    """Everything before the first token that is drawn: text, speaker, language, and the codes of a spoken prompt or of
    what is heard. The one place where a Prompt becomes tokens: every sampler asks here.

    Raises ValueError on text that the tokenizer refuses, and on a `voice` that the codec has not read yet.
    """
    if (prompt.voice is None and answer == "text") or (prompt.voice is not None and not len(prompt.voice.codes)):
        got = "none" if prompt.voice is None else "its text alone"
        raise ValueError(f"Expected the `voice` of prompt {prompt.key!r} as codes, but got {got}.")
    if answer == "text":
        return prompt_format.understanding_prompt_tokens(prompt.voice.codes)
    return prompt_format.prompt_tokens(*prompt.told)


def answered(prompt: Sequence[int], answer: Sequence[int], end: int) -> Document:
    """The answer and its end are learned, nothing before."""
    return [*prompt, *answer, end], len(prompt)
