"""Text tokenizers that need no download. Each satisfies modules.api.TextTokenizer."""

from collections.abc import Sequence


class ByteTokenizer:
    """Text as its UTF-8 bytes: 256 tokens, every language, nothing to train.

    Args:
        characters: The only characters that texts may hold, for a model that has learned no others (a demo model knows
            letters and the space). None allows every text.

    Raises:
        ValueError: From `encode`, if the text is empty or holds a character outside `characters`.
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
                    f"Expected `text` to hold only characters of {self.characters!r}, but got {listed} in {text!r}."
                )
        return list(text.encode("utf-8"))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text; bytes that are not valid UTF-8 (a cut-off character) become U+FFFD."""
        return bytes(tokens).decode("utf-8", errors="replace")
