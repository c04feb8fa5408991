"""Hugging Face tokenizers: text through one, and one that speaks all of a TokenSpace, for export.

A folder may hold the tokenizer of a text model (Llama 3.2) or of a model that speaks already (a released Llasa, our own
export). Both give the same text ids; the second kind is checked to have the markers and codes at the TokenSpace's ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from modules.tokens import MARKERS, TokenSpace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


CODE_PREFIX = "<|s_"


def code_name(code: int) -> str:
    """How a code is written as a token in a Hugging Face vocabulary."""
    return f"{CODE_PREFIX}{code}|>"


class HuggingFaceTokenizer:
    """A modules.api.TextTokenizer over a Hugging Face tokenizer. Reads its files on first use.

    Args:
        source: A folder, or the name of a repository on the hub.
        revision: Of the repository: a commit keeps a run repeatable.

    Raises (on first use):
        OSError: There is no tokenizer at `source`, or it cannot be fetched.
        ValueError: It holds some markers, but not all eight in Llasa's order, or text ids behind them.
    """

    def __init__(self, source: str, revision: str | None = None):
        self.source, self.revision = str(source), revision

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.source, revision=self.revision)
        except (OSError, ValueError) as error:
            raise OSError(
                f"Expected a tokenizer in the folder or hub repository `{self.source}`, but got: "
                f"{str(error).splitlines()[0]}"
            ) from error

    @cached_property
    def vocab_size(self) -> int:
        """Ids of text: those before the first marker, or all of them where there are no markers."""
        vocabulary = self.tokenizer.get_vocab()
        present = [name for name in MARKERS if name in vocabulary]
        if not present:
            return max(vocabulary.values()) + 1
        first = vocabulary[present[0]]
        found = {name: vocabulary.get(name) for name in MARKERS}
        expected = {name: first + number for number, name in enumerate(MARKERS)}
        if found != expected:
            raise ValueError(f"Expected all markers in Llasa's order in `{self.source}`, but got {found}.")
        check_codes(vocabulary, TokenSpace(first, max(self.num_codes, 1)), self.source)
        return first

    @cached_property
    def num_codes(self) -> int:
        """Codes that the vocabulary names; 0 where it is of a text model."""
        return sum(name.startswith(CODE_PREFIX) for name in self.tokenizer.get_vocab())

    def encode(self, text: str) -> list[int]:
        """Ids of what is to be spoken, or was said. Names of special tokens in it are read as the characters they are.

        Raises ValueError where the text is empty or holds a name that the vocabulary knows as a marker or a code.
        """
        if not text.strip():
            raise ValueError(f"Expected `text` to hold something to speak, but got {text!r}.")
        tokens = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        if any(token >= self.vocab_size for token in tokens):
            raise ValueError(f"Expected `text` without names of markers and codes, but got {text!r}.")
        return tokens

    def encode_template(self, text: str) -> list[int]:
        """Ids of a piece of a chat template: names of special tokens give those tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False) if text else []

    def render(self, messages: Sequence[dict[str, str]], date: str, begin_answer: bool = True) -> str:
        """The chat template around `messages` ({"role", "content"}).

        Args:
            date: What the template is told of the day; Llama 3's would else write today's, and prompts would change.
            begin_answer: Whether the assistant's next turn is opened.

        Raises ValueError where the tokenizer has no chat template.
        """
        if self.tokenizer.chat_template is None:
            raise ValueError(
                f"Expected the tokenizer of `{self.source}` to have a chat template, but it has none. Take that of an "
                "instruction-tuned model, or the format modules.lm.text.prompt_format.TextToSpeech, which needs none."
            )
        return self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=begin_answer, date_string=date
        )

    def decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens))

    def with_codes(self, space: TokenSpace) -> PreTrainedTokenizerBase:
        """A copy that knows the markers and codes at the TokenSpace's ids."""
        import copy

        return with_speech_tokens(copy.deepcopy(self.tokenizer), space)


def check_codes(vocabulary: dict[str, int], space: TokenSpace, source: str) -> None:
    """Raises ValueError where the vocabulary does not end with the space's codes in order, right after the markers."""
    names = {code_name(code): space.code_offset + code for code in range(space.codebook_size)}
    wrong = [name for name, number in names.items() if vocabulary.get(name) != number]
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"Expected the token {name} of `{source}` at id {names[name]}, but got {vocabulary.get(name)}: another "
            "codebook, or an id that a text token holds."
        )


def with_speech_tokens(tokenizer: PreTrainedTokenizerBase, space: TokenSpace) -> PreTrainedTokenizerBase:
    """Add what is missing of the space's markers and codes to `tokenizer`. Raises ValueError where ids do not fit."""
    names = [*MARKERS, *(code_name(code) for code in range(space.codebook_size))]
    vocabulary = tokenizer.get_vocab()
    tokenizer.add_tokens([name for name in names if name not in vocabulary])
    vocabulary: dict[str, Any] = tokenizer.get_vocab()
    for number, name in enumerate(MARKERS):
        if vocabulary[name] != space.text_vocab_size + number:
            raise ValueError(
                f"Expected the marker {name} at id {space.text_vocab_size + number}, but got {vocabulary[name]}."
            )
    check_codes(vocabulary, space, tokenizer.name_or_path)
    return tokenizer
