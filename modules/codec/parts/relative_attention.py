"""RelativeKeyAttention: w2v-BERT 2.0's attention, with the position bias computed once per distance.

Shapes: B batch, S frames, C channels, H heads, D channels per head, P distances.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RelativeKeyAttention(nn.Module):
    """Attention with relative key positions: adds the product of the query and an embedding of the clipped distance.

    Equal to transformers' Wav2Vec2BertSelfAttention with `relative_key` positions (Shaw et al., arXiv 1803.02155), with
    the same parameter names. That implementation gathers a vector for each pair of frames, S * S * D numbers, and
    multiplies; this one multiplies each query with the 73 distance embeddings and gathers S * S products.

    Args:
        attention: The module whose layers are reused.
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.linear_q, self.linear_k, self.linear_v = attention.linear_q, attention.linear_k, attention.linear_v
        self.linear_out, self.dropout = attention.linear_out, attention.dropout
        self.distance_embedding = attention.distance_embedding
        self.num_heads = attention.num_heads
        self.num_left, self.num_right = attention.left_max_position_embeddings, attention.right_max_position_embeddings

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **unused: Any
    ) -> tuple[Tensor, None]:
        """Return (B, S, C), and None in place of the attention weights that transformers' layer expects.

        `attention_mask` broadcasts to (B, H, S, S): bool (true where a key is attended to) or numbers to add.
        """
        queries_BHSD, keys_BHSD, values_BHSD = (
            layer(hidden_states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.linear_q, self.linear_k, self.linear_v)
        )
        mixed_BHSD = F.scaled_dot_product_attention(
            queries_BHSD,
            keys_BHSD,
            values_BHSD,
            attn_mask=_masked(self._bias(queries_BHSD), attention_mask),
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        return self.linear_out(mixed_BHSD.transpose(1, 2).flatten(2)), None

    def _bias(self, queries_BHSD: Tensor) -> Tensor:
        """Position bias (B, H, S, S), scaled like the attention scores."""
        embedding_PD = self.distance_embedding.weight.to(queries_BHSD.dtype) * queries_BHSD.shape[-1] ** -0.5
        by_distance_BHSP = queries_BHSD @ embedding_PD.T
        frames_S = torch.arange(queries_BHSD.shape[2], device=queries_BHSD.device)
        distances_SS = (frames_S - frames_S[:, None]).clamp(-self.num_left, self.num_right) + self.num_left
        return by_distance_BHSP.gather(-1, distances_SS.expand(*by_distance_BHSP.shape[:2], -1, -1))


def _masked(bias_BHSS: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return bias_BHSS
    if mask.dtype != torch.bool:
        return bias_BHSS + mask
    # Finite instead of minus infinity: an item without frames attends to nothing and must not become NaN.
    return bias_BHSS.masked_fill(~mask, torch.finfo(bias_BHSS.dtype).min)


def with_quick_positions(network: nn.Module) -> nn.Module:
    """Replace such attention in the network by RelativeKeyAttention. Parameter names stay the same."""
    for layer in network.modules():
        attention = getattr(layer, "self_attn", None)
        if getattr(attention, "position_embeddings_type", None) == "relative_key":
            layer.self_attn = RelativeKeyAttention(attention)
    return network
