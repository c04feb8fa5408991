"""Text tokenizers that need no download. Each satisfies modules.api.TextTokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modules.lm.text.huggingface_tokenizer import with_speech_tokens
from modules.tokens import TokenSpace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ByteTokenizer:
    """Encodes text as its UTF-8 bytes: 256 tokens, every language, no training.

    Args:
        characters: The only characters allowed in texts, for a model trained with no others (the demo's models know
            letters and the space). None allows every text.

    Raises:
        ValueError: From `encode`, if the text is empty or has a character outside `characters`.
    """

    def __init__(self, characters: str | None = None):
        if characters == "":
            raise ValueError("Expected `characters` to hold at least one character or to be None, but got ''.")
        self.characters = characters

    @property
    def vocab_size(self) -> int:
        return 256

    def encode(self, text: str) -> list[int]:
        if not text.strip():
            raise ValueError(f"Expected `text` to hold something to speak, but got {text!r}.")
        if self.characters is not None:
            unknown = sorted(set(text) - set(self.characters))
            if unknown:
                listed = ", ".join(repr(character) for character in unknown)
                raise ValueError(
                    f"Expected `text` to hold only characters of {self.characters!r}, but got {listed} in {text!r}. "
                    "`characters: null` of the tokenizer allows every text; a trained model knows only those that it "
                    "was trained with."
                )
        return list(text.encode("utf-8"))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text; bytes that are not valid UTF-8 (a cut-off character) become U+FFFD."""
        return bytes(tokens).decode("utf-8", errors="replace")

    def with_codes(self, space: TokenSpace) -> PreTrainedTokenizerBase:
        """Return the same tokens as a Hugging Face tokenizer with the markers and codes, for export.

        `characters` is not part of it: it accepts every text.
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        # Byte-level tokenizers represent bytes by printable characters: printable ones by themselves, the others by the
        # characters from U+0100 on.
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in printable]
        written = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
        tokenizer = Tokenizer(models.BPE(vocab={written[byte]: byte for byte in range(256)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        return with_speech_tokens(PreTrainedTokenizerFast(tokenizer_object=tokenizer), space)
