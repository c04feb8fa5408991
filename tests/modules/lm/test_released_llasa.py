"""A folder in the shape of the released Llasa-1B: its ids, template, dtype and rotary settings; a small random body."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from modules.lm.pretrained import PretrainedNetwork, load_pretrained
from modules.lm.text.huggingface_tokenizer import HuggingFaceTokenizer
from modules.lm.text.prompt_format import LlasaChat
from tests.toys.llasa_folder import NUM_CODES, NUM_TEXT, NUM_WORDS, released_tokenizer, save_network


@pytest.fixture(scope="module")
def reference() -> PreTrainedTokenizerFast:
    return released_tokenizer()


@pytest.fixture(scope="module")
def chat(reference: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> LlasaChat:
    folder = tmp_path_factory.mktemp("llasa")
    reference.save_pretrained(folder)
    return LlasaChat(HuggingFaceTokenizer(str(folder)), NUM_CODES)


@pytest.mark.parametrize("tied", [True, False])
def test_the_released_language_model_is_taken_as_it_is(tied, chat):
    """Guards against rows that are reinitialised or moved, ids in another order, a lost head, bfloat16 in training."""
    folder, space = Path(chat.tokenizer.source), chat.token_space
    stored = save_network(folder, tied)
    assert ("lm_head.weight" in stored) != tied
    assert (space.text_vocab_size, space.code_offset, space.vocab_size) == (NUM_TEXT, 128_264, NUM_WORDS)
    network = load_pretrained(PretrainedNetwork(str(folder)), space)
    assert network.config.vocab_size == NUM_WORDS and network.config.rope_parameters["factor"] == 32.0
    for name, weight in network.state_dict().items():
        expected = stored.get(name, stored["model.embed_tokens.weight"])
        assert weight.dtype == torch.float32 and torch.equal(weight, expected.float()), name
    assert (network.lm_head.weight is network.model.embed_tokens.weight) == tied


def test_the_released_prompt_is_token_for_token_that_of_its_template(chat, reference):
    """Guards against another system turn, today's date, or speech markers in other places."""
    content = "Convert the text to speech:<|TEXT_UNDERSTANDING_START|>Hello: World.<|TEXT_UNDERSTANDING_END|>"
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": "<|SPEECH_GENERATION_START|><|s_7|><|s_65535|>"},
    ]
    expected = reference.apply_chat_template(
        messages, tokenize=True, continue_final_message=True, date_string="26 Jul 2024", return_dict=False
    )
    prompt = chat.prompt_tokens("Hello: World.")
    assert [*prompt, 128_264 + 7, 128_264 + 65_535] == expected
    said = reference.decode(prompt)
    assert "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>" in said
    assert prompt[0] == 128_000 and prompt[-1] == 128_260 == chat.token_space.speech_start
