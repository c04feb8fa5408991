"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: a few trained weights added to frozen ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SLICE = 2**24  # values converted at once for a checkpoint


@dataclass(frozen=True)
class LowRankAdapters:
    """Settings of low-rank adapters and of the layers trained with them.

    Args:
        rank: Rank of each matrix's update.
        alpha: The update is scaled by alpha / rank.
        dropout: Dropout on the adapters' input.
        layers: Names of the linear layers to adapt.
        train_embeddings: Also train the full embedding and head. Required for new tokens (markers, codes): a fit
            without it raises an error. A released Llasa already has them.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    layers: list[str] = field(default_factory=lambda: list(LINEAR_LAYERS))
    train_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"Expected `rank` to be at least 1, but got {self.rank}.")


def add_adapters(network: PreTrainedModel, adapters: LowRankAdapters) -> None:
    """Freeze `network` and add adapters to it, in place. Initially they do not change its output.

    Raises ImportError without peft.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("Expected peft for adapters, but it is not installed: pip install peft.") from error
    config = LoraConfig(
        r=adapters.rank,
        lora_alpha=adapters.alpha,
        lora_dropout=adapters.dropout,
        target_modules=list(adapters.layers),
    )
    inject_adapter_in_model(config, network)
    if adapters.train_embeddings:
        network.model.embed_tokens.weight.requires_grad_(True)
        network.lm_head.weight.requires_grad_(True)


def merge_adapters(network: nn.Module) -> None:
    """Merge each adapter into its frozen matrix, leaving plain linear layers, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, BaseTunerLayer):
                child.merge()
                setattr(module, name, child.get_base_layer())
    network.requires_grad_(True)
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        if attribute in vars(network):
            delattr(network, attribute)


def stored_weights(weights: Mapping[str, Tensor], trained: Collection[str]) -> dict[str, Tensor]:
    """Weights as a checkpoint stores them: frozen ones as bfloat16 where that changes no value, which halves the file
    of a network that was released in bfloat16. They load into float32 as they were; tied ones stay one tensor. Halves
    are in the memory of the CPU."""
    halves: dict[int, Tensor] = {}
    stored = dict(weights)
    shared = {weights[name].data_ptr() for name in trained}
    for name, weight in weights.items():
        place = weight.data_ptr()
        if weight.dtype == torch.float32 and place not in shared:
            if place not in halves:
                half = _half(weight)
                halves[place] = weight if half is None else half
            stored[name] = halves[place]
    return stored


def _half(weight: Tensor) -> Tensor | None:
    """A float32 tensor as bfloat16 on the CPU, or None if that changes a value; slice by slice, so that the device
    needs no more memory."""
    half = torch.empty(weight.shape, dtype=torch.bfloat16)
    rows, halved = weight.detach().reshape(-1), half.view(-1)
    for start in range(0, len(rows), SLICE):
        values, part = rows[start : start + SLICE].cpu(), halved[start : start + SLICE]
        if not torch.equal(part.copy_(values).float(), values):
            return None
    return half
