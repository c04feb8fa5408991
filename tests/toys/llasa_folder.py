"""Folders in the shape of the released Llasa-1B: its ids, template, dtype and rotary settings; a small random body."""

import base64
import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from modules.tokens import MARKERS

NUM_TEXT, NUM_MERGED, NUM_CODES, NUM_WORDS = 128_256, 128_000, 65_536, 193_800
PATTERN = (  # of Llama 3's words
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
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
    return with_special_tokens(tokenizer)


def llama_file() -> Path:
    """Llama 3's tokenizer in tiktoken's form: a token in base64 and its rank on every line."""
    package = importlib.util.find_spec("llama_models")
    if package is None:
        pytest.skip("llama-models is not installed: pip install -r requirements-test.txt")
    return Path(package.submodule_search_locations[0]) / "llama3/tokenizer.model"


def true_tokenizer() -> PreTrainedTokenizerFast:
    """Llama 3's own 128,000 tokens, with the same words as released_tokenizer after them. Takes 4 s: transformers' own
    conversion takes 95."""
    lines = llama_file().read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
    written = bytes_to_unicode()
    names = {token: "".join(written[byte] for byte in token) for token in ranks}
    merges = []
    for token in ranks:  # in the order of ranks: every pair of tokens that gives it, as in the published tokenizer.json
        pairs = [(token[:place], token[place:]) for place in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in ranks and pair[1] in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    vocabulary = {names[token]: rank for token, rank in ranks.items()}
    named = [(names[left], names[right]) for left, right in merges]
    tokenizer = Tokenizer(models.BPE(vocabulary, named, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, whole])
    return with_special_tokens(tokenizer)


def with_special_tokens(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Llama 3's 256 special tokens, Llasa's eight markers and 65,536 codes, and the chat template."""
    tokenizer.decoder = decoders.ByteLevel()
    special = [f"<|{SPECIAL.get(number, f'reserved_special_token_{number}')}|>" for number in range(256)]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    tokenizer.add_tokens([*MARKERS, *(f"<|s_{code}|>" for code in range(NUM_CODES))])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    fast.pad_token, fast.chat_template = fast.eos_token, TEMPLATE
    return fast


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
