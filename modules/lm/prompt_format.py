"""Where text and codes stand in a sequence. Each class satisfies modules.api.PromptFormat."""

from collections.abc import Sequence

from modules.api import TextTokenizer
from modules.tokens import TokenSpace


class TextToSpeech:
    """Text in, speech out, in Llasa's order (arXiv 2502.04128) without the chat template around it:

        <|TEXT_UNDERSTANDING_START|> text <|TEXT_UNDERSTANDING_END|>
        <|SPEECH_GENERATION_START|> codes <|SPEECH_GENERATION_END|>

    Only the codes and the end of speech carry loss.

    Args:
        tokenizer: Turns text into ids in [0, vocab_size).
        codebook_size: Number of codes of the codec that made the codes.
    """

    def __init__(self, tokenizer: TextTokenizer, codebook_size: int):
        self.tokenizer = tokenizer
        self._token_space = TokenSpace(text_vocab_size=tokenizer.vocab_size, codebook_size=codebook_size)

    @property
    def token_space(self) -> TokenSpace:
        return self._token_space

    def prompt_tokens(self, text: str) -> list[int]:
        """The tokens up to and with the start of speech. Raises ValueError on text that the tokenizer refuses."""
        space = self._token_space
        return [space.text_start, *self.tokenizer.encode(text), space.text_end, space.speech_start]

    def example_tokens(self, text: str, codes: Sequence[int]) -> tuple[list[int], int]:
        """The whole sequence, and how many of its first tokens carry no loss.

        Raises:
            ValueError: If there are no codes, one lies outside [0, codebook_size), or the tokenizer refuses the text.
        """
        space = self._token_space
        codes = [int(code) for code in codes]
        if not codes:
            raise ValueError(f"Expected `codes` to hold at least one code, but got none for {text!r}.")
        lowest, highest = min(codes), max(codes)
        if lowest < 0 or highest >= space.codebook_size:
            raise ValueError(
                f"Expected `codes` in [0, `codebook_size`={space.codebook_size}), but got {lowest} to {highest}."
            )
        prompt = self.prompt_tokens(text)
        return [*prompt, *(space.code_offset + code for code in codes), space.speech_end], len(prompt)
