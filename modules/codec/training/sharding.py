"""FSDP2 sharding of the codec's networks, one unit per network."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from modules.codec.parts.semantic_encoder import SemanticEncoder

# Methods called from outside besides `forward`: each gathers the weights once for the whole call.
ENTRANCES = ("encode", "decode")


def shard_codec(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a network in place over the one-dimensional `mesh`.

    One FSDP unit per network, because the largest, X-codec2's generator, has 0.24B parameters. Weights are gathered in
    float32; autocast chooses what is computed in bfloat16 (not spectra).
    """
    fully_shard(network, mesh=mesh)
    for name in ENTRANCES:
        if hasattr(network, name):
            register_fsdp_forward_method(network, name)


def restore_frozen(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Restore the frozen speech encoders of a sharded module from a checkpoint's `state_dict`.

    Needed because Lightning loads a sharded module by the names of its parameters and buffers, and these networks are
    neither. Raises RuntimeError if a weight is missing.
    """
    for name, part in module.named_modules():
        if isinstance(part, SemanticEncoder):
            start = f"{name}."
            part.load_state_dict({key.removeprefix(start): weights[key] for key in weights if key.startswith(start)})


def clip_gradients(weights: Sequence[nn.Parameter], largest: float) -> Tensor:
    """Scale the gradients of all `weights` to a norm of at most `largest`. Returns the norm before, over all ranks
    (scalar)."""
    norm = nn.utils.clip_grad_norm_(weights, largest)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm.detach()
