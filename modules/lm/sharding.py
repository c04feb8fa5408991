"""FSDP2 sharding of the language model, one unit per block, without a whole copy on every rank.

The network is created on the meta device. Its units (each block; then embedding, norm and head) are materialised one
after the other: rank 0, which alone builds or loads the network, broadcasts the unit's weights, and each rank keeps its
shard. A rank holds its shards and one unit; rank 0 also one copy in host memory. The weights equal those of a single
process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from modules.lm.attention import register_packed_attention
from modules.lm.network import SpeechLanguageModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_sharded(
    build: Callable[[], PreTrainedModel],
    prepare: Callable[[PreTrainedModel], None],
    mesh: DeviceMesh,
    parameter_dtype: torch.dtype | None = None,
) -> SpeechLanguageModel:
    """Build the network sharded over the one-dimensional `mesh`. Collective.

    Args:
        build: Builds or loads the network. Called on the first rank only, whose random state all ranks then continue
            with.
        prepare: Modifies a network before it is sharded (adapters, recomputation); also applied to the meta network.
        mesh: All ranks.
        parameter_dtype: Precision of computation with gathered weights; gradients are still reduced in float32.
    """
    group, device = mesh.get_group(), _device_of(mesh)
    first = torch.distributed.get_global_rank(group, 0)
    source = None
    about: list[Any] = [None]
    if torch.distributed.get_rank() == first:
        with torch.device("cpu"):
            source = build()
            prepare(source)
        dtypes = {name: weight.dtype for name, weight in source.named_parameters()}
        about = [(type(source), source.config, dtypes, torch.get_rng_state())]
    torch.distributed.broadcast_object_list(about, src=first, group=group)
    kind, config, dtypes, random_state = about[0]
    register_packed_attention()  # the configuration refers to it by name
    with torch.device("meta"):
        skeleton = kind(config)
        prepare(skeleton)
    torch.set_rng_state(random_state)
    skeleton.train()
    # Position embeddings are computed from the configuration and are not among the weights.
    skeleton.model.rotary_emb = type(skeleton.model.rotary_emb)(config=config).to(device)
    model = SpeechLanguageModel(skeleton)
    weights = {} if source is None else dict(SpeechLanguageModel(source).named_parameters())

    def fill(unit: nn.Module) -> None:
        for name, holders in _unfilled(model, unit):
            meta = holders[0][0].get_parameter(holders[0][1])
            value = torch.empty(meta.shape, dtype=dtypes[name.removeprefix("llama.")], device=device)
            if source is not None:
                value.copy_(weights[name].detach())
            torch.distributed.broadcast(value, src=first, group=group)
            parameter = nn.Parameter(value, requires_grad=meta.requires_grad)
            for module, attribute in holders:  # tied weights stay tied
                setattr(module, attribute, parameter)

    shard_data_parallel(model, mesh, parameter_dtype, fill)
    if left := [name for name, tensor in _states(model) if tensor.is_meta]:
        raise ValueError(f"Expected a network whose weights alone need to be sent to other ranks, but got {left[:5]}.")
    return model


def shard_data_parallel(
    model: SpeechLanguageModel,
    mesh: DeviceMesh,
    parameter_dtype: torch.dtype | None = None,
    fill: Callable[[nn.Module], None] | None = None,
) -> None:
    """Shard `model` in place over the one-dimensional `mesh`: each block, then the rest (embedding, norm, head).

    Args:
        parameter_dtype: Precision of computation with gathered weights; gradients are still reduced in float32.
        fill: Called with each unit before it is sharded.
    """
    policy = MixedPrecisionPolicy()
    if parameter_dtype is not None:
        policy = MixedPrecisionPolicy(param_dtype=parameter_dtype, reduce_dtype=torch.float32)
    for unit in (*model.llama.model.layers, model):
        if fill is not None:
            fill(unit)
        fully_shard(unit, mesh=mesh, mp_policy=policy)


def _device_of(mesh: DeviceMesh) -> torch.device:
    if mesh.device_type == "cpu":
        return torch.device("cpu")
    return torch.device(mesh.device_type, torch.get_device_module(mesh.device_type).current_device())


def _unfilled(model: nn.Module, unit: nn.Module) -> Iterator[tuple[str, list[tuple[nn.Module, str]]]]:
    """Yield the parameters of `unit` that are on the meta device: the first name in `model`, and all owners."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    holders: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in unit.modules():
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.is_meta:
                holders.setdefault(id(parameter), []).append((module, attribute))
    for parameter, places in list(holders.items()):
        yield names[parameter], places


def _states(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
