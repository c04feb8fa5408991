"""Document-exact attention over packed rows, as an attention function of transformers.

A packed row contains several documents end to end. Each document attends causally to itself only, so that a packed row
gives the same results as its documents separately. The boundaries are computed once per forward pass (`find_segments`)
and passed to every layer as the keyword argument `segments`; no (L, L) mask is ever built.

Shapes: R rows, L tokens of a row, H query heads, K key-value heads, G query heads of each, D head size, S keys of a
cache, T keys of a row's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.lm.sampling.kv_cache import Roots
from modules.precision import product_dtype

ATTENTION_NAME = "packed_documents"
SHORT_DOCUMENT = 256  # tokens; of longer ones the scores of all heads would take much memory


@dataclass(frozen=True)
class Segments:
    """Runs of tokens of one document in the flattened (R * L) tokens.

    `lengths` and `is_padding` (host lists) are used by the loop; `boundaries` (int32, one more than there are segments)
    and `max_length`, an upper bound of all segments, by the variable-length kernel.
    """

    boundaries: Tensor
    max_length: int
    lengths: list[int]
    is_padding: list[bool]


def find_segments(documents_RL: Tensor) -> Segments:
    """Find the segments of packed rows. `documents_RL` numbers the documents of each row; -1 is padding.

    Costs one device synchronisation if the rows are not on the CPU.
    """
    num_rows, row_length = documents_RL.shape
    changes_RL = torch.ones_like(documents_RL, dtype=torch.bool)  # a row always starts a segment
    changes_RL[:, 1:] = documents_RL[:, 1:] != documents_RL[:, :-1]
    starts = changes_RL.flatten().nonzero().squeeze(1)
    boundaries = torch.cat([starts, starts.new_tensor([num_rows * row_length])])
    lengths = boundaries.diff().tolist()
    is_padding = (documents_RL.flatten()[starts] < 0).tolist()
    return Segments(boundaries.to(torch.int32), row_length, lengths, is_padding)


def register_packed_attention() -> str:
    """Register the attention function with transformers, and return its name for `attn_implementation`.

    Only the attention function is registered: transformers builds no mask for a name without a mask function.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, packed_attention)
    return ATTENTION_NAME


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Segments | None = None,
    roots: Roots | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention of `query` (R, H, L, D) over `key` and `value` (R, K, S, D): (R, L, H, D), in transformers' signature.

    With `segments`: causal within each segment. Without: one new token per row over a cache, where `attention_mask` (R,
    1, 1, S) is False for excluded keys, and `roots` contains keys and values before those; or, with L = S, plain causal
    rows.
    """
    if dropout:
        raise ValueError(f"Expected `attention_dropout` to be 0 with packed attention, but got {dropout}.")
    if segments is not None:
        return _attend_segments(query, key, value, segments, scaling), None
    if query.shape[2] == 1:
        return _attend_cache(query, key, value, attention_mask, scaling, roots, module.layer_idx), None
    if attention_mask is not None or query.shape[2] != key.shape[2]:
        raise ValueError("Expected `segments`, one token per row, or whole rows without a mask, but got none of them.")
    output = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    return output.transpose(1, 2), None


def _attend_cache(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    roots: Roots | None,
    layer: int,
) -> Tensor:
    """The query heads that share a key-value head become query tokens of one head, so that each key is read once."""
    num_rows, num_heads, _, head_size = query.shape
    num_groups = key.shape[1]
    folded = query.reshape(num_rows, num_groups, num_heads // num_groups, head_size)
    folded = folded * (head_size**-0.5 if scaling is None else scaling)
    # Two plain products: for one token per row on a CPU twice as fast as the fused kernel, which a mask slows down.
    scores = folded @ key.transpose(2, 3)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if roots is None:
        output = scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value
    else:
        runs = zip(
            roots.caches_A2KSD, *(one.split(roots.num_rows) for one in (folded, scores, value)), strict=True
        )  # fmt: skip
        output = torch.cat([_attend_root(*cache_A2KSD[layer], *run) for cache_A2KSD, *run in runs])
    return output.reshape(num_rows, 1, num_heads, head_size)


def _attend_root(root_key: Tensor, root_value: Tensor, query: Tensor, own_scores: Tensor, own_value: Tensor) -> Tensor:
    """Attention of rows over shared keys, (K, S, D), followed by their own.

    For the shared keys all rows become query tokens of one product per key-value head. `query` (R, K, G, D) is scaled;
    `own_scores` (R, K, G, T) and `own_value` (R, K, T, D). Returns (R, K, G, D).
    """
    num_rows, num_groups, num_heads, head_size = query.shape
    together = query.transpose(0, 1).reshape(num_groups, num_rows * num_heads, head_size)
    scores = (together @ root_key.transpose(1, 2)).view(num_groups, num_rows, num_heads, -1)
    scores = torch.cat([scores, own_scores.transpose(0, 1)], dim=-1)
    weights = scores.softmax(-1, dtype=torch.float32).to(own_value.dtype)
    root_weights, own_weights = weights.split([root_key.shape[1], own_value.shape[2]], dim=-1)
    shared = root_weights.reshape(num_groups, num_rows * num_heads, -1) @ root_value
    return shared.view(num_groups, num_rows, num_heads, head_size).transpose(0, 1) + (
        own_weights.transpose(0, 1) @ own_value
    )


def _attend_segments(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float | None) -> Tensor:
    num_rows, num_heads, row_length, head_size = query.shape
    tokens = [tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value)]  # each (R * L, heads, D)
    dtype = product_dtype(query)  # under autocast rotated queries and keys are float32
    kernel = _variable_length_kernel() if _kernel_takes(query.device, dtype, head_size) else None
    if kernel is not None:
        tokens = [tensor.to(dtype) for tensor in tokens]
        output = kernel(*tokens, segments.boundaries, segments.max_length, scaling)
    else:
        output = _loop_over_segments(*tokens, segments, scaling)
    return output.view(num_rows, row_length, num_heads, head_size)


def _loop_over_segments(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float | None) -> Tensor:
    """One causal attention call per document; zeros for padding. `split` keeps the backward pass linear in the
    tokens."""
    outputs = []
    is_plain_faster = query.device.type == "cpu" and product_dtype(query) == torch.bfloat16
    parts = zip(*(tensor.split(segments.lengths) for tensor in (query, key, value)), segments.is_padding, strict=True)
    for query_part, key_part, value_part, is_padding in parts:
        if is_padding:
            outputs.append(torch.zeros_like(query_part))
            continue
        heads = [part.transpose(0, 1).unsqueeze(0) for part in (query_part, key_part, value_part)]
        attend = _attend_short if is_plain_faster and len(query_part) <= SHORT_DOCUMENT else _attend_fused
        outputs.append(attend(*heads, scaling).squeeze(0).transpose(0, 1))
    return torch.cat(outputs)


def _attend_fused(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)


def _attend_short(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Causal attention by two plain products: the backward pass of the fused kernel is slow in bfloat16 on a CPU."""
    num_rows, num_heads, length, head_size = query.shape
    folded = query.unflatten(1, (key.shape[1], -1)) * (head_size**-0.5 if scaling is None else scaling)
    is_later = torch.ones(length, length, dtype=torch.bool).triu(1)
    scores = (folded @ key.unsqueeze(2).transpose(3, 4)).masked_fill_(is_later, float("-inf"))
    return (scores.softmax(-1) @ value.unsqueeze(2)).view(num_rows, num_heads, length, head_size)


def _kernel_takes(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether `varlen_attn` takes such tensors: it fails beyond these limits. Larger heads have no gradient on some
    cards."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    return head_size % 8 == 0 and head_size <= 192 and torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def _variable_length_kernel() -> Callable[..., Tensor] | None:
    """Return torch's variable-length FlashAttention (CUDA, half precision), or None if this torch has none.

    Its signature varies: torch 2.10 has `is_causal`, later versions `window_size`; `enable_gqa` was added after 2.11.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    parameters = inspect.signature(varlen_attn).parameters
    options: dict[str, object] = {"is_causal": True} if "is_causal" in parameters else {"window_size": (-1, 0)}
    has_groups = "enable_gqa" in parameters
    if has_groups:
        options["enable_gqa"] = True

    def attend(
        query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, max_length: int, scaling: float | None
    ) -> Tensor:
        if not has_groups and key.shape[1] != query.shape[1]:
            num_repeats = query.shape[1] // key.shape[1]
            key, value = (tensor.repeat_interleave(num_repeats, dim=1) for tensor in (key, value))
        # Early signatures have no `scale`; scaling the query by the ratio to the default is equivalent.
        if scaling is not None:
            query = query * (scaling * query.shape[-1] ** 0.5) if scaling != query.shape[-1] ** -0.5 else query
        return varlen_attn(query, key, value, boundaries, boundaries, max_length, max_length, **options)

    return attend
