"""TokenSpace, the vocabulary of text and speech; and Utterance, a text with its codes."""

from collections.abc import Sequence
from dataclasses import dataclass

MARKERS = (
    "<|TEXT_GENERATION_START|>",
    "<|TEXT_GENERATION_END|>",
    "<|TEXT_UNDERSTANDING_START|>",
    "<|TEXT_UNDERSTANDING_END|>",
    "<|SPEECH_GENERATION_START|>",
    "<|SPEECH_GENERATION_END|>",
    "<|SPEECH_UNDERSTANDING_START|>",
    "<|SPEECH_UNDERSTANDING_END|>",
)


@dataclass(frozen=True)
class TokenSpace:
    """Shared vocabulary of text and speech: text tokens, then eight markers, then one token per code.

    The order is Llasa's (arXiv 2502.04128): 128,256 text tokens and 65,536 codes give the published 193,800 ids.

    Args:
        text_vocab_size: Number of text tokens, ids 0 to text_vocab_size - 1.
        codebook_size: Number of codes of the codec.
    """

    text_vocab_size: int
    codebook_size: int

    def __post_init__(self) -> None:
        for name in ("text_vocab_size", "codebook_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, but got {getattr(self, name)}.")

    @property
    def vocab_size(self) -> int:
        return self.code_offset + self.codebook_size

    @property
    def code_offset(self) -> int:
        """Id of code 0."""
        return self.text_vocab_size + len(MARKERS)

    @property
    def text_start(self) -> int:
        return self.marker("<|TEXT_UNDERSTANDING_START|>")

    @property
    def text_end(self) -> int:
        return self.marker("<|TEXT_UNDERSTANDING_END|>")

    @property
    def speech_start(self) -> int:
        return self.marker("<|SPEECH_GENERATION_START|>")

    @property
    def speech_end(self) -> int:
        return self.marker("<|SPEECH_GENERATION_END|>")

    def marker(self, name: str) -> int:
        """Id of the marker `name`, one of MARKERS."""
        return self.text_vocab_size + MARKERS.index(name)

    def as_dict(self) -> dict[str, int]:
        return {"text_vocab_size": self.text_vocab_size, "codebook_size": self.codebook_size}


@dataclass(frozen=True)
class Utterance:
    """Text and the codes of its recording, if any; speaker and language, if known. `words`: the words of the text, each
    with the second at which it ends, the pause after it included; () if unknown."""

    text: str
    codes: Sequence[int] = ()
    speaker: str = ""
    language: str = ""
    words: Sequence[tuple[str, float]] = ()
