"""A folder in the shape of the released Llasa-1B: its ids, template, dtype and rotary settings; a small random body."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from modules.lm.pretrained import PretrainedNetwork, load_pretrained
from modules.lm.text.huggingface_tokenizer import HuggingFaceTokenizer
from modules.lm.text.prompt_format import LlasaChat
from modules.tokens import MARKERS

NUM_TEXT, NUM_MERGED, NUM_CODES, NUM_WORDS = 128_256, 128_000, 65_536, 193_800
SPECIAL = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 8: "eom_id", 9: "eot_id"}
TEMPLATE = (  # Llama 3.2's, without its tools
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}'
    '{%- endif %}{%- endif %}{%- if messages[0]["role"] == "system" %}'
    '{%- set system_message = messages[0]["content"]|trim %}{%- set messages = messages[1:] %}'
    '{%- else %}{%- set system_message = "" %}{%- endif %}'
    '{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}{{- "Cutting Knowledge Date: December 2023\\n" }}'
    '{{- "Today Date: " + date_string + "\\n\\n" }}{{- system_message }}{{- "<|eot_id|>" }}'
    '{%- for message in messages %}{{- "<|start_header_id|>" + message["role"] + "<|end_header_id|>\\n\\n" }}'
    '{{- message["content"] | trim + "<|eot_id|>" }}{%- endfor %}'
    '{%- if add_generation_prompt %}{{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}{%- endif %}'
)


def released_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and unused words up to 128,000, Llama 3's 256 special tokens, eight markers, 65,536 codes."""
    names = [*pre_tokenizers.ByteLevel.alphabet()]
    names += [f"unused {number}" for number in range(NUM_MERGED - len(names))]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [f"<|{SPECIAL.get(number, f'reserved_special_token_{number}')}|>" for number in range(256)]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    tokenizer.add_tokens([*MARKERS, *(f"<|s_{code}|>" for code in range(NUM_CODES))])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    fast.pad_token, fast.chat_template = fast.eos_token, TEMPLATE
    return fast


@pytest.fixture(scope="module")
def reference() -> PreTrainedTokenizerFast:
    return released_tokenizer()


@pytest.fixture(scope="module")
def chat(reference: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> LlasaChat:
    folder = tmp_path_factory.mktemp("llasa")
    reference.save_pretrained(folder)
    return LlasaChat(HuggingFaceTokenizer(str(folder)), NUM_CODES)


def save_network(folder: Path, tied: bool) -> dict[str, torch.Tensor]:
    rope = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(
        vocab_size=NUM_WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=131_072, tie_word_embeddings=tied, rope_parameters=rope,
        bos_token_id=NUM_MERGED, eos_token_id=NUM_MERGED + 9, pad_token_id=NUM_MERGED + 9, dtype="bfloat16",
    )  # fmt: skip
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    return load_file(folder / "model.safetensors")


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
