"""The tokenizer and the prompt format against a sequence written out by hand."""

import pytest

from modules.api import Prompt, PromptFormat, TextTokenizer
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech, encoded_prompt
from modules.tokens import Utterance


def test_sequence_is_llasa_s_order():
    """Guards against another marker order or code offset, which would break published checkpoints."""
    tokens, num_context = TextToSpeech(ByteTokenizer(), codebook_size=16).example_tokens("hé", [0, 15])
    markers = 256
    assert tokens == [markers + 2, 104, 0xC3, 0xA9, markers + 3, markers + 4, 264, 279, markers + 5]
    assert num_context == 6
    assert TextToSpeech(ByteTokenizer(), codebook_size=16).prompt_tokens("hé") == tokens[:6]


@pytest.mark.parametrize("codes", [[-1, 3], [16], []])
def test_codes_outside_the_codebook_are_refused(codes):
    """Guards against codes of a larger codec that would become ids beyond the vocabulary."""
    with pytest.raises(ValueError, match="Expected `codes`"):
        TextToSpeech(ByteTokenizer(), codebook_size=16).example_tokens("a", codes)


def test_a_prompt_contains_speaker_and_language():
    """Guards against a speaker used in training and not at inference, in either place, and against half a prefix if a
    name is not known."""
    start, end, speech_start, code_0 = 258, 259, 260, 264
    form = TextToSpeech(ByteTokenizer(), 16, prefix="{language}, {speaker}: ", answer_prefix="Speaker {speaker} ")
    plain = Prompt("a", "one", speaker="ann", language="fr")
    told = [start, *b"fr, ann: one", end, *b"Speaker ann ", speech_start]
    assert encoded_prompt(form, plain) == told
    cloned = Prompt("a", "one", speaker="ann", language="fr", voice=Utterance("two", (3,)))
    assert encoded_prompt(form, cloned) == [start, *b"fr, ann: two one", end, *told[-13:], code_0 + 3]
    assert encoded_prompt(form, Prompt("a", "one", speaker="ann", language="")) == [
        start, *b"one", end, *b"Speaker ann ", speech_start
    ]  # fmt: skip
    assert encoded_prompt(form, Prompt("a", "one", language="fr")) == [start, *b"one", end, speech_start]
    for speaker, language in (("ann", "fr"), ("", "fr"), ("ann", "")):
        tokens, num_context = form.example_tokens("one", [3], speaker, language)
        assert tokens[:num_context] == encoded_prompt(form, Prompt("a", "one", speaker=speaker, language=language))
        assert tokens[num_context:] == [code_0 + 3, 261]
        assert len(tokens) <= len(b"one") + 1 + form.num_extra_tokens


def test_prefixes_of_other_names_are_refused():
    """Guards against a misspelt name that fails at the first sample, hours later."""
    for given in ({"prefix": "{voice}: "}, {"answer_prefix": "{} "}, {"prefix": "{speaker.name}"}, {"prefix": "{"}):
        (name,) = given
        with pytest.raises(ValueError, match=f"Expected `{name}` to "):
            TextToSpeech(ByteTokenizer(), 16, **given)


def test_unknown_characters_are_named():
    """Guards against speaking characters that the model was not trained on."""
    tokenizer = ByteTokenizer("abc ")
    assert tokenizer.decode(tokenizer.encode("a cab")) == "a cab"
    with pytest.raises(ValueError, match=r"but got '4', 'é' in 'a 4é'"):
        tokenizer.encode("a 4é")
    for empty in ("", "  "):
        with pytest.raises(ValueError, match="something to speak"):
            tokenizer.encode(empty)


def test_protocols_are_satisfied():
    """Guards against a class that no longer satisfies the protocol that configs require."""
    assert isinstance(ByteTokenizer(), TextTokenizer)
    assert isinstance(TextToSpeech(ByteTokenizer(), 4), PromptFormat)
