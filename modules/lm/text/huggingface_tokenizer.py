"""Hugging Face tokenizers: for text, and for the whole TokenSpace, for export.

A folder may have the tokenizer of a text model (Llama 3.2) or of a speech model (a released Llasa, our own export).
Both give the same text ids; the second kind is checked to have the markers and codes at the TokenSpace's ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.tokens import MARKERS, TokenSpace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


CODE_PREFIX = "<|s_"


def code_name(code: int) -> str:
    """Name of a code's token in a Hugging Face vocabulary."""
    return f"{CODE_PREFIX}{code}|>"


class HuggingFaceTokenizer:
    """A modules.api.TextTokenizer over a Hugging Face tokenizer. Reads its files on first use.

    Args:
        source: A folder, or the name of a repository on the hub.
        revision: Revision of the repository; a commit makes runs reproducible.

    Raises (on first use):
        OSError: There is no tokenizer at `source`, or it cannot be downloaded.
        ValueError: It has some markers, but not all eight in Llasa's order, or text ids after them.
    """

    def __init__(self, source: str, revision: str | None = None):
        self.source, self.revision = str(source), revision

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        try:
            return read_tokenizer(self.source, self.revision, written_in(self.source))
        except (OSError, ValueError) as error:
            raise OSError(
                f"Expected a tokenizer in the folder or hub repository `{self.source}`, but got: "
                f"{str(error).splitlines()[0]}"
            ) from error

    @property
    def vocab_size(self) -> int:
        """Number of text ids: those before the first marker, or all of them if there are no markers."""
        return self._sizes[0]

    @property
    def num_codes(self) -> int:
        """Number of codes in the vocabulary; 0 for a text model."""
        return self._sizes[1]

    @cached_property
    def _sizes(self) -> tuple[int, int]:
        return vocabulary_sizes(self.tokenizer, self.source)

    def encode(self, text: str) -> list[int]:
        """Encode a text to speak or a transcript. Names of special tokens in it are encoded as ordinary characters.

        Raises ValueError if the text is empty or contains the name of a marker or a code of the vocabulary.
        """
        if not text.strip():
            raise ValueError(f"Expected `text` to hold something to speak, but got {text!r}.")
        tokens = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        if any(token >= self.vocab_size for token in tokens):
            raise ValueError(f"Expected `text` without names of markers and codes, but got {text!r}.")
        return tokens

    def encode_template(self, text: str) -> list[int]:
        """Encode a piece of a chat template: names of special tokens become those tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False) if text else []

    def render(self, messages: Sequence[dict[str, str]], date: str, begin_answer: bool = True) -> str:
        """Apply the chat template to `messages` ({"role", "content"}).

        Args:
            date: Date passed to the template; Llama 3's would otherwise use today's, and prompts would change.
            begin_answer: Start the assistant's next turn.

        Raises ValueError if the tokenizer has no chat template.
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
        """Return a copy with the markers and codes at the TokenSpace's ids."""
        import copy

        return with_speech_tokens(copy.deepcopy(self.tokenizer), space)


@lru_cache(maxsize=4)
def read_tokenizer(source: str, revision: str | None, written: frozenset[tuple[str, int, int]]) -> Any:
    """The tokenizer of a source, not to be changed: a fit asks four times for that of a released Llasa, which takes
    eight seconds to read. `written`: a folder's files that it was read from."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, revision=revision)


@lru_cache(maxsize=4)
def vocabulary_sizes(tokenizer: PreTrainedTokenizerBase, source: str) -> tuple[int, int]:
    """Numbers of text ids and of codes of a tokenizer, by identity: the 193,800 names of a released Llasa take a second
    to check. Raises ValueError as HuggingFaceTokenizer."""
    vocabulary = tokenizer.get_vocab()
    num_codes = sum(name.startswith(CODE_PREFIX) for name in vocabulary)
    present = [name for name in MARKERS if name in vocabulary]
    if not present:
        return max(vocabulary.values()) + 1, num_codes
    first = vocabulary[present[0]]
    found = {name: vocabulary.get(name) for name in MARKERS}
    expected = {name: first + number for number, name in enumerate(MARKERS)}
    if found != expected:
        raise ValueError(f"Expected all markers in Llasa's order in `{source}`, but got {found}.")
    check_codes(vocabulary, TokenSpace(first, max(num_codes, 1)), source)
    return first, num_codes


def written_in(source: str) -> frozenset[tuple[str, int, int]]:
    """Name, size and time of the files in a folder; empty for a name on the hub."""
    folder = Path(source)
    files = [(one.name, one.stat()) for one in folder.iterdir() if one.is_file()] if folder.is_dir() else []
    return frozenset((name, about.st_size, about.st_mtime_ns) for name, about in files)


def check_codes(vocabulary: dict[str, int], space: TokenSpace, source: str) -> None:
    """Raise ValueError unless the vocabulary ends with the space's codes in order, right after the markers."""
    names = {code_name(code): space.code_offset + code for code in range(space.codebook_size)}
    wrong = [name for name, number in names.items() if vocabulary.get(name) != number]
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"Expected the token {name} of `{source}` at id {names[name]}, but got {vocabulary.get(name)}: another "
            "codebook, or an id that a text token holds."
        )


def with_speech_tokens(tokenizer: PreTrainedTokenizerBase, space: TokenSpace) -> PreTrainedTokenizerBase:
    """Add the space's missing markers and codes to `tokenizer`. Raises ValueError if ids do not match."""
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
