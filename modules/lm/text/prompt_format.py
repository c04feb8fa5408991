"""Prompt formats: the layout of text and codes in a sequence. Each class satisfies modules.api.PromptFormat."""

import json
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from modules.api import Prompt, PromptFormat, TextTokenizer, VariesExamples
from modules.lm.text.answers import AnswerKind
from modules.lm.text.huggingface_tokenizer import HuggingFaceTokenizer
from modules.tokens import TokenSpace, Utterance

Document = tuple[list[int], int]


@dataclass(frozen=True)
class Frame:
    """Tokens around a request and its answer: `opening` before the request, `turn` between the two."""

    opening: tuple[int, ...] = ()
    turn: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        return len(self.opening) + len(self.turn)


def code_tokens(space: TokenSpace, codes: Sequence[int], text: str) -> list[int]:
    """Return the ids of codes. Raises ValueError if there are none, or one lies outside [0, codebook_size)."""
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
    """TTS prompt: the text as request, then the start of speech, preceded by `answer_prefix_tokens`."""
    request = [space.text_start, *text_tokens, space.text_end]
    return [*frame.opening, *request, *frame.turn, *answer_prefix_tokens, space.speech_start]


def understanding_prompt(space: TokenSpace, frame: Frame, speech_tokens: Sequence[int]) -> list[int]:
    """ASR prompt: the speech as request, then the start of text."""
    start = space.marker("<|SPEECH_UNDERSTANDING_START|>")
    request = [start, *speech_tokens, space.marker("<|SPEECH_UNDERSTANDING_END|>")]
    return [*frame.opening, *request, *frame.turn, space.marker("<|TEXT_GENERATION_START|>")]


def encoded_prompt(prompt_format: PromptFormat, prompt: Prompt, answer: AnswerKind = "speech") -> list[int]:
    """Return all tokens before the first sampled one: text, speaker, language, and the codes of a spoken prompt or, for
    "text" answers, of the speech to transcribe. The one place where a Prompt becomes tokens, for all samplers.

    Raises ValueError for text that the tokenizer rejects, and for a `voice` that the codec has not encoded yet.
    """
    if (prompt.voice is None and answer == "text") or (prompt.voice is not None and not len(prompt.voice.codes)):
        got = "none" if prompt.voice is None else "its text alone"
        raise ValueError(f"Expected the `voice` of prompt {prompt.key!r} as codes, but got {got}.")
    if answer == "text":
        return prompt_format.understanding_prompt_tokens(prompt.voice.codes)
    return prompt_format.prompt_tokens(*prompt.told)


def answered(prompt: Sequence[int], answer: Sequence[int], end: int) -> Document:
    """Only the answer and its end carry loss."""
    return [*prompt, *answer, end], len(prompt)


NUM_MARKERS = 4  # start and end of the request, start and end of the answer
PROBES = (*string.ascii_letters, *string.digits, "é", "中")
MAX_PREFIX_NAMES = 32  # maximum bytes of speaker and language in each prefix, for planning rows
SLOT = "\x02"  # placeholder of the request while a chat template is split


class TextToSpeech:
    """Text in, speech out, in Llasa's order (arXiv 2502.04128) without the chat template around it:

        <|TEXT_UNDERSTANDING_START|> text <|TEXT_UNDERSTANDING_END|>
        <|SPEECH_GENERATION_START|> codes <|SPEECH_GENERATION_END|>

    Only the codes and the end of speech carry loss. A spoken prompt (`voice`) inserts its text before the text and its
    codes before the codes, without loss; one without text is continued: the text begins with its words. ASR (speech
    understanding) is the reverse:

        <|SPEECH_UNDERSTANDING_START|> codes <|SPEECH_UNDERSTANDING_END|>
        <|TEXT_GENERATION_START|> text <|TEXT_GENERATION_END|>

    Args:
        tokenizer: Encodes text as ids in [0, vocab_size).
        codebook_size: Number of codes of the codec.
        prefix: Inserted before the text; may refer to {speaker} and {language}: "{speaker}: ". Omitted if a value it
            refers to is not known, so that a model learns both forms.
        answer_prefix: Inserted directly before <|SPEECH_GENERATION_START|>, without loss, under the same rule. Llasa
            models fine-tuned to several voices have "Speaker {speaker} " there.
    """

    def __init__(self, tokenizer: TextTokenizer, codebook_size: int, prefix: str = "", answer_prefix: str = ""):
        self.tokenizer, self.codebook_size = tokenizer, codebook_size
        self.prefix, self.answer_prefix = prefix, answer_prefix
        for name, template in (("prefix", prefix), ("answer_prefix", answer_prefix)):
            if not names_in(template, name) <= {"speaker", "language"}:
                raise ValueError(f"Expected `{name}` to name {{speaker}} and {{language}} only, but got {template!r}.")

    @cached_property
    def token_space(self) -> TokenSpace:
        return TokenSpace(text_vocab_size=self.tokenizer.vocab_size, codebook_size=self.codebook_size)

    @property
    def num_extra_tokens(self) -> int:
        """Tokens of an example in addition to those of its text and codes, for planning rows."""
        frame = max(self._synthesis_frame.num_tokens, self._understanding_frame.num_tokens)
        prefixes = [template for template in (self.prefix, self.answer_prefix) if template]
        names = sum(len(template.encode()) + MAX_PREFIX_NAMES for template in prefixes)
        num_encoded = 2 if self.answer_prefix else 1  # it is encoded separately
        return NUM_MARKERS + frame + names + num_encoded * self._num_added_tokens

    @cached_property
    def _num_added_tokens(self) -> int:
        """Number of tokens that the tokenizer adds to a text's bytes, such as one for its start."""
        added = [0]
        for text in PROBES:
            try:
                added.append(len(self.tokenizer.encode(text)) - len(text.encode()))
            except ValueError:  # the tokenizer rejects this one
                continue
        return max(added)

    # ---------------------------------------------------------------------------------------------------- synthesis

    def prompt_tokens(
        self, text: str, speaker: str = "", language: str = "", voice: Utterance | None = None
    ) -> list[int]:
        """Return the tokens up to and including the start of speech, or the codes of the spoken prompt `voice`.

        Raises ValueError for text that the tokenizer rejects.
        """
        return self._spoken_prompt(self.tokenizer.encode, text, speaker, language, voice)

    def _spoken_prompt(
        self, encode: Callable[[str], list[int]], text: str, speaker: str, language: str, voice: Utterance | None
    ) -> list[int]:
        said = text if voice is None or not voice.text else f"{voice.text} {text}"
        said = filled(self.prefix, speaker, language) + said
        prompt = self._prompt(encode(said), filled(self.answer_prefix, speaker, language))
        return prompt if voice is None else prompt + code_tokens(self.token_space, voice.codes, voice.text)

    def _example_text_tokens(self, text: str) -> list[int]:
        """Tokens of a training text."""
        is_varied = isinstance(self.tokenizer, VariesExamples)
        return self.tokenizer.encode_example(text) if is_varied else self.tokenizer.encode(text)

    def _prompt(self, text_tokens: Sequence[int], answer_prefix: str) -> list[int]:
        prefix_tokens = self.tokenizer.encode(answer_prefix) if answer_prefix else ()
        return synthesis_prompt(self.token_space, self._synthesis_frame, text_tokens, prefix_tokens)

    def example_tokens(
        self, text: str, codes: Sequence[int], speaker: str = "", language: str = "", voice: Utterance | None = None
    ) -> Document:
        """Return the whole sequence, and the number of its leading tokens without loss.

        Raises:
            ValueError: There are no codes, one lies outside [0, codebook_size), or the tokenizer rejects the text.
        """
        answer = code_tokens(self.token_space, codes, text)
        prompt = self._spoken_prompt(self._example_text_tokens, text, speaker, language, voice)
        return answered(prompt, answer, self.token_space.speech_end)

    def example_from_tokens(self, text_tokens: Sequence[int], codes: Sequence[int]) -> Document:
        """The example of a text whose tokens are given, of unknown speaker and language. To decode and encode them
        could give others. Raises ValueError for invalid codes, as above."""
        prefix = filled(self.prefix, "", "")
        prompt = self._prompt(
            [*(self.tokenizer.encode(prefix) if prefix else ()), *text_tokens], filled(self.answer_prefix, "", "")
        )
        return answered(prompt, code_tokens(self.token_space, codes, "tokens"), self.token_space.speech_end)

    @property
    def request_template(self) -> str:
        """The request for speech as text, with `{text}` in place of the text to speak."""
        return "<|TEXT_UNDERSTANDING_START|>{text}<|TEXT_UNDERSTANDING_END|>"

    @property
    def prompt_template(self) -> str:
        """The whole prompt as text, without the prefixes: an exported tokenizer encodes it as `prompt_tokens`."""
        return f"{self.request_template}<|SPEECH_GENERATION_START|>"

    # ------------------------------------------------------------------------------------------------ understanding

    def understanding_prompt_tokens(self, codes: Sequence[int]) -> list[int]:
        """Return the ASR prompt, up to and including the start of the text. Raises ValueError for invalid codes, as
        above."""
        speech = code_tokens(self.token_space, codes, "speech")
        return understanding_prompt(self.token_space, self._understanding_frame, speech)

    def understanding_tokens(self, text: str, codes: Sequence[int]) -> Document:
        """ASR example; the text and its end carry loss. Raises ValueError like `example_tokens`."""
        return self.understanding_from_tokens(self.tokenizer.encode(text), codes)

    def understanding_from_tokens(self, text_tokens: Sequence[int], codes: Sequence[int]) -> Document:
        """The same of a text whose tokens are given."""
        end = self.token_space.marker("<|TEXT_GENERATION_END|>")
        return answered(self.understanding_prompt_tokens(codes), text_tokens, end)

    def answer_text(self, tokens: Sequence[int]) -> str:
        """Decode the text tokens of an answer."""
        return self.tokenizer.decode(tokens).strip()

    # ------------------------------------------------------------------------------------------------------- frames

    @property
    def _synthesis_frame(self) -> Frame:
        return Frame()

    @property
    def _understanding_frame(self) -> Frame:
        return Frame()


class LlasaChat(TextToSpeech):
    """The same requests and answers inside the text model's chat template, as in the released Llasa models:

        ...user: Convert the text to speech:<|TEXT_UNDERSTANDING_START|>...<|TEXT_UNDERSTANDING_END|><|eot_id|>
        ...assistant: <|SPEECH_GENERATION_START|>...<|SPEECH_GENERATION_END|>

    Llama 3's template contains the current date, so that its prompts change daily; here the date is fixed. The released
    models have an end of turn after the end of speech, but were not trained to generate it: it is omitted here.

    Args:
        tokenizer: Tokenizer of an instruction-tuned model; its chat template is used.
        codebook_size, prefix, answer_prefix: As in TextToSpeech.
        date: Date passed to the template; the default is the template's own.
        synthesis_instruction, understanding_instruction: Text of the user's turn before the request. The first is that
            of the released models; for the second none was published.
    """

    def __init__(
        self,
        tokenizer: HuggingFaceTokenizer,
        codebook_size: int = 65536,
        prefix: str = "",
        date: str = "26 Jul 2024",
        synthesis_instruction: str = "Convert the text to speech:",
        understanding_instruction: str = "Convert the speech to text:",
        answer_prefix: str = "",
    ):
        super().__init__(tokenizer, codebook_size, prefix, answer_prefix)
        self.date = date
        self.synthesis_instruction, self.understanding_instruction = synthesis_instruction, understanding_instruction

    @cached_property
    def _synthesis_frame(self) -> Frame:
        return self._frame(self.synthesis_instruction)

    @cached_property
    def _understanding_frame(self) -> Frame:
        return self._frame(self.understanding_instruction)

    @property
    def request_template(self) -> str:
        return self.synthesis_instruction + super().request_template

    @property
    def prompt_template(self) -> str:
        messages = [{"role": "user", "content": self.request_template}]
        return f"{self.tokenizer.render(messages, self.date)}<|SPEECH_GENERATION_START|>"

    def dated(self, chat_template: str) -> str:
        """The chat template with this format's date in place of today's; a caller's `date_string` overrides it."""
        return (
            "{%- if date_string is not defined %}{%- set date_string = "
            f"{json.dumps(self.date)} %}}{{%- endif %}}{chat_template}"
        )

    def _frame(self, instruction: str) -> Frame:
        """Markers split a text before it is tokenised, so the pieces around them can be tokenised separately."""
        rendered = self.tokenizer.render([{"role": "user", "content": instruction + SLOT}], self.date)
        opening, turn = rendered.split(SLOT)
        return Frame(tuple(self.tokenizer.encode_template(opening)), tuple(self.tokenizer.encode_template(turn)))

    def chat_tokens(self, messages: Sequence[dict[str, str]]) -> Document:
        """Encode a conversation without speech; its last turn, the assistant's, carries loss, including its end of
        turn.

        Raises ValueError if the last turn is not the assistant's, or the template does not simply append turns.
        """
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise ValueError("Expected `messages` to end with an answer of the assistant, but got another turn.")
        prompt = self.tokenizer.render(messages[:-1], self.date)
        whole = self.tokenizer.render(messages, self.date, begin_answer=False)
        if not whole.startswith(prompt):
            raise ValueError("Expected a chat template that appends turns, but its last turn changes earlier ones.")
        context = self.tokenizer.encode_template(prompt)
        return [*context, *self.tokenizer.encode_template(whole[len(prompt) :])], len(context)


def names_in(template: str, argument: str = "template") -> set[str]:
    """Return the names in braces of a format string. Raises ValueError, naming `argument`, if it is invalid."""
    try:
        return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ValueError(f"Expected `{argument}` to be a format string, but got {template!r}: {error}.") from error


def filled(template: str, speaker: str, language: str) -> str:
    """Fill in the template's names; "" if a value it refers to is not known."""
    names = {"speaker": speaker, "language": language}
    return template.format(**names) if all(names[name] for name in names_in(template)) else ""
