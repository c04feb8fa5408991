"""The tokenizer and the prompt format against a sequence written out by hand."""

import pytest

from modules.api import PromptFormat, TextTokenizer
from modules.lm.prompt_format import TextToSpeech
from modules.lm.tokenizer import ByteTokenizer


def test_sequence_is_llasa_s_order():
    """Guards against another marker order or code offset, which would make published checkpoints speak noise."""
    tokens, num_context = TextToSpeech(ByteTokenizer(), codebook_size=16).example_tokens("hé", [0, 15])
    markers = 256
    assert tokens == [markers + 2, 104, 0xC3, 0xA9, markers + 3, markers + 4, 264, 279, markers + 5]
    assert num_context == 6
    assert TextToSpeech(ByteTokenizer(), codebook_size=16).prompt_tokens("hé") == tokens[:6]


@pytest.mark.parametrize("codes", [[-1, 3], [16], []])
def test_codes_outside_the_codebook_are_refused(codes):
    """Guards against codes of a larger codec that would land on ids past the vocabulary."""
    with pytest.raises(ValueError, match="Expected `codes`"):
        TextToSpeech(ByteTokenizer(), codebook_size=16).example_tokens("a", codes)


def test_unknown_characters_are_named():
    """Guards against a model asked to speak characters that it has never seen."""
    tokenizer = ByteTokenizer("abc ")
    assert tokenizer.decode(tokenizer.encode("a cab")) == "a cab"
    with pytest.raises(ValueError, match=r"but got '4', 'é' in 'a 4é'"):
        tokenizer.encode("a 4é")
    for empty in ("", "  "):
        with pytest.raises(ValueError, match="something to speak"):
            tokenizer.encode(empty)


def test_protocols_are_satisfied():
    """Guards against a class that a config can no longer name where the protocol is asked for."""
    assert isinstance(ByteTokenizer(), TextTokenizer)
    assert isinstance(TextToSpeech(ByteTokenizer(), 4), PromptFormat)
