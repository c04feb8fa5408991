"""FLOPs of training and of sampling a Llama, computed from its sizes.

The codec and the verifiers count their own (`decode_flops`, `flops`); modules/search/costs.py adds all of them up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


@dataclass(frozen=True)
class TransformerSize:
    """Sizes that determine the FLOPs of a Llama. `from_config` reads them from a transformers configuration, `of` from
    a network.

    A layer's weights: queries and output (hidden x heads x head size), keys and values (hidden x key-value heads x head
    size), three matrices of the gated feed-forward, and adapters. Norms and embeddings need no matrix product.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    head_size: int
    vocab_size: int
    num_adapter_weights: int = 0

    @classmethod
    def from_config(cls, config: Any) -> TransformerSize:
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            head_size,
            config.vocab_size,
        )

    @classmethod
    def of(cls, network: LlamaForCausalLM) -> TransformerSize:
        size = cls.from_config(network.config)
        num_weights = sum(weight.numel() for weight in network.model.layers.parameters() if weight.ndim == 2)
        return replace(size, num_adapter_weights=num_weights - size.num_weights)

    @property
    def num_weights(self) -> int:
        """Number of weights of all layers in matrix products, without the embedding and the head."""
        attention = 2 * self.hidden_size * self.head_size * (self.num_heads + self.num_key_value_heads)
        layer = attention + 3 * self.hidden_size * self.intermediate_size
        return self.num_layers * layer + self.num_adapter_weights

    def forward_flops(self, num_tokens: float, num_pairs: float, num_targets: float, num_words: int = 0) -> float:
        """2 FLOPs per weight and token, 4 per channel and pair of query and key (scores and values), 2 per weight of
        the head and predicted token; the head has `num_words` entries (0: all)."""
        attention = 4 * self.num_layers * self.num_heads * self.head_size * num_pairs
        head = 2 * self.hidden_size * (num_words or self.vocab_size) * num_targets
        return 2 * self.num_weights * num_tokens + attention + head

    def training_flops(self, num_tokens: float, document_tokens: float, target_share: float = 1.0) -> float:
        """FLOPs to train on `num_tokens` in documents of `document_tokens`: 6ND, the attention and the head.

        The backward pass costs twice the forward. A token attends to itself and to the previous ones in its document,
        on average (document_tokens + 1) / 2. `target_share`: fraction of tokens with a loss; the others need no head.
        """
        num_pairs = num_tokens * (document_tokens + 1) / 2
        return 3 * self.forward_flops(num_tokens, num_pairs, target_share * num_tokens)

    def speech_flops(self, num_prompt_tokens: int, num_codes: int, num_words: int = 0) -> float:
        """FLOPs to process a prompt and sample codes with a head of `num_words`, as returned by a Sampler's `flops`."""
        num_tokens = num_prompt_tokens + num_codes
        return self.forward_flops(num_tokens, num_tokens * (num_tokens + 1) / 2, num_codes, num_words)
