"""A language model small enough to compute without a cache, and its noise in Python's integers."""

import torch
from transformers import LlamaForCausalLM

from modules.api import Prompt
from modules.lm.network import LlamaSize, build_llama
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech

FORMAT = TextToSpeech(ByteTokenizer(), codebook_size=24)
SIZE = LlamaSize(
    hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_key_value_heads=2, tie_embeddings=False
)
PROMPTS = [Prompt("a", "one"), Prompt("b", "seven eight"), Prompt("c", "four two four")]


def splitmix_uniform(seed: int, position: int) -> float:
    """splitmix64 noise in Python's unbounded integers."""
    mask, gamma = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    return ((mix(mix((seed & mask) + gamma & mask) + (position + 1) * gamma & mask) >> 16) + 0.5) / 2**48


def toy_network() -> LlamaForCausalLM:
    """Random weights with a non-uniform distribution."""
    torch.manual_seed(0)
    network = build_llama(SIZE, FORMAT.token_space.vocab_size)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(12 if parameter.ndim == 2 else 1)  # fresh weights give a nearly flat distribution
    return network


def eager_copy(network: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same weights with transformers' own attention."""
    config = type(network.config)(**{**network.config.to_dict(), "attn_implementation": "eager"})
    plain = LlamaForCausalLM(config).eval()
    plain.load_state_dict(network.state_dict())
    return plain
