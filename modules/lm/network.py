"""The language model's network: transformers' LlamaForCausalLM over packed rows, and its loss."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from modules.batches import TokenBatch
from modules.lm.attention import find_segments, register_packed_attention
from modules.lm.loss import SummedLoss, linear_cross_entropy
from modules.tokens import TokenSpace

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedConfig

# Keys of a configuration that do not affect sampling: how the model was initialised, trained or written, and the tokens
# at which `generate` would stop (the TokenSpace defines ours). The dtype is that of the weights, which are hashed.
NOT_DRAWING = {
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "chat_template",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


@dataclass(frozen=True)
class LlamaSize:
    """Sizes of a Llama. The defaults are the demo's: 5M parameters without embedding and head.

    Args:
        hidden_size: Channels of the residual stream.
        intermediate_size: Channels of the gated feed-forward layer.
        num_layers: Number of blocks.
        num_heads: Query heads; divides hidden_size.
        num_key_value_heads: Heads of keys and values; divides num_heads.
        rope_theta: Base of the rotary position embedding.
        max_positions: Longest sequence that the model is meant for, tokens.
        tie_embeddings: Use the transposed embedding as head (Llasa-1B: yes).
    """

    hidden_size: int = 256
    intermediate_size: int = 768
    num_layers: int = 6
    num_heads: int = 4
    num_key_value_heads: int = 2
    rope_theta: float = 10000.0
    max_positions: int = 2048
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        for name in (
            "hidden_size",
            "intermediate_size",
            "num_layers",
            "num_heads",
            "num_key_value_heads",
            "max_positions",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, but got {getattr(self, name)}.")
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"Expected `num_heads` to divide `hidden_size`={self.hidden_size} into an even head size, "
                f"but got {self.num_heads}."
            )
        if self.num_heads % self.num_key_value_heads:
            raise ValueError(
                f"Expected `num_key_value_heads` to divide `num_heads`={self.num_heads}, "
                f"but got {self.num_key_value_heads}."
            )


def build_llama(size: LlamaSize, vocab_size: int) -> LlamaForCausalLM:
    """Build a randomly initialised Llama with exact attention for packed documents (modules/lm/attention.py)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=size.hidden_size,
        intermediate_size=size.intermediate_size,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_key_value_heads,
        max_position_embeddings=size.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": float(size.rope_theta)},
        tie_word_embeddings=size.tie_embeddings,
        use_cache=False,  # else every training step would fill a cache
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation=register_packed_attention(),
    )
    return LlamaForCausalLM(config)


class SpeechLanguageModel(nn.Module):
    """A Llama whose forward pass is the teacher-forced loss of packed rows.

    The loss is part of `forward` so that FSDP2 gathers the head's weights for it, and tied weights stay in one group.
    """

    def __init__(self, llama: LlamaForCausalLM):
        super().__init__()
        self.llama = llama

    def forward(self, batch: TokenBatch) -> SummedLoss:
        """Return the loss summed over the targets of `batch.labels_RL`, and their number."""
        output = self.llama.model(
            input_ids=batch.tokens_RL,
            position_ids=batch.positions_RL,
            use_cache=False,
            segments=find_segments(batch.documents_RL),
        )
        hidden_NC = output.last_hidden_state.flatten(0, 1)
        return linear_cross_entropy(hidden_NC, self.llama.lm_head.weight, batch.labels_RL.flatten())


def model_hash(network: SpeechLanguageModel, token_space: TokenSpace) -> str:
    """SHA-256 of everything that determines what the network samples: its configuration, the scales of its adapters,
    the TokenSpace, and every weight (name, dtype, shape and bytes; sharded ones are gathered)."""
    from torch.distributed.tensor import DTensor  # a second of import time, which listing voices would pay

    about = {
        "config": drawing_config(network.llama.config),
        "adapter_scales": adapter_scales(network),
        "token_space": token_space.as_dict(),
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, weight in sorted(network.state_dict().items()):
        weight = weight.full_tensor() if isinstance(weight, DTensor) else weight
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def drawing_config(config: PreTrainedConfig) -> dict[str, Any]:
    """Part of a configuration that affects the logits and differs from transformers' default: all but NOT_DRAWING."""
    return {name: value for name, value in config.to_diff_dict().items() if name not in NOT_DRAWING}


def adapter_scales(network: nn.Module) -> dict[str, dict[str, float]]:
    """Factor of each low-rank update, by layer and adapter: alpha / rank, which is not stored in the weights."""
    scales = {}
    for name, module in network.named_modules():
        if isinstance(given := getattr(module, "scaling", None), dict):  # peft's; attention has a number
            scales[name] = {adapter: float(scale) for adapter, scale in given.items()}
    return scales
