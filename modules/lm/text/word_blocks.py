"""WordBlocks: a prompt format in which the model writes each word before the codes of that word."""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

from modules.api import TextTokenizer
from modules.lm.text.prompt_format import Document, TextToSpeech, answered, code_tokens
from modules.tokens import Utterance


class WordBlocks(TextToSpeech):
    """Text in, words with their codes out:

        <|TEXT_UNDERSTANDING_START|> text <|TEXT_UNDERSTANDING_END|>
        <|SPEECH_GENERATION_START|> word codes word codes ... <|SPEECH_GENERATION_END|>

    The whole text precedes the answer, as in ELLA-V (arXiv 2401.07333), where phonemes precede their codes. A word is
    its tokens and the space after it, so that the codes begin where the word is complete; the next word, or the end of
    speech, ends them. The model writes the words itself: samplers treat an answer as one sequence of tokens, and a word
    that it skips is missing from that sequence; `force_words` of the sampling settings lets it write those of the text
    alone. Words and codes carry loss. Training requires the times of the words (the json's `words`).

    Args:
        tokenizer: Encodes a text as its words, each with a space after it but the last: ByteTokenizer or
            PhonemeTokenizer.
        codebook_size: Number of codes of the codec.

    Raises:
        ValueError: The tokenizer does not encode a space as one token. Spoken prompts are not supported.
    """

    def __init__(self, tokenizer: TextTokenizer, codebook_size: int):
        super().__init__(tokenizer, codebook_size)
        if len(tokenizer.encode("a a")) != 3:
            raise ValueError(f"Expected a tokenizer that encodes a space as one token, but got {tokenizer!r}.")

    @cached_property
    def _space(self) -> int:
        return self.tokenizer.encode("a a")[1]

    @property
    def num_extra_tokens(self) -> int:
        return super().num_extra_tokens + 1  # the space after the last word

    def prompt_tokens(
        self, text: str, speaker: str = "", language: str = "", voice: Utterance | None = None
    ) -> list[int]:
        if voice is not None:
            raise ValueError("Expected no spoken prompt: models that write words cannot continue a recording.")
        return super().prompt_tokens(text, speaker, language)

    def written_tokens(self, text: str) -> list[int]:
        return [*self.tokenizer.encode(text), self._space]

    def example_tokens(
        self, text: str, codes: Sequence[int], speaker: str = "", language: str = "", voice: Utterance | None = None
    ) -> Document:
        if voice is not None:
            raise ValueError("Expected no spoken prompt: models that write words cannot continue a recording.")
        raise ValueError(f"Expected the times of the words of {text!r} (`words`), but got none.")

    def example_from_tokens(self, text_tokens: Sequence[int], codes: Sequence[int]) -> Document:
        raise ValueError("Expected the times of the words, but texts stored as tokens have none.")

    def aligned_example(self, said: Utterance) -> Document:
        """Return the whole sequence, and the number of its leading tokens without loss.

        Raises ValueError as TextToSpeech.example_tokens, and if `words` are not those of the text, or their times do
        not ascend.
        """
        texts = self._pieces(said.text)
        if not said.words:
            raise ValueError(f"Expected the times of the words of {said.text!r} (`words`), but got none.")
        if " ".join(word for word, _ in said.words) != said.text or len(texts) != len(said.words):
            raise ValueError(
                f"Expected `words` that make up {said.text!r}, but got {[word for word, _ in said.words]}."
            )
        codes = code_tokens(self.token_space, said.codes, said.text)
        stops = word_stops([end for _, end in said.words], len(codes))
        answer: list[int] = []
        for piece, start, stop in zip(texts, [0, *stops], stops, strict=False):
            answer += [*piece, *codes[start:stop]]
        prompt = self._prompt([token for piece in texts for token in piece][:-1], "")
        return answered(prompt, answer, self.token_space.speech_end)

    def _pieces(self, text: str) -> list[list[int]]:
        """Tokens of each word of a training text, with the space after it."""
        pieces: list[list[int]] = [[]]
        for token in [*self._example_text_tokens(text), self._space]:
            pieces[-1].append(token)
            if token == self._space:
                pieces.append([])
        return pieces[:-1]


def word_stops(ends: Sequence[float], num_codes: int) -> list[int]:
    """Code at which each word stops: the end times, in seconds, on the grid of codes; the last word has all the rest.

    Raises ValueError if the times do not ascend from 0.
    """
    if ends[0] <= 0 or any(end <= before for before, end in pairwise(ends)):
        raise ValueError(f"Expected end times of words that ascend from 0, but got {list(ends)}.")
    return [*(round(num_codes * end / ends[-1]) for end in ends[:-1]), num_codes]
