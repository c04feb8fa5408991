"""The parallel plan of the codec's networks: FSDP2, one unit per network."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from modules.codec.parts.semantic_encoder import SemanticEncoder

# Called from outside, beside `forward`: each gathers the weights once for all that it does.
ENTRANCES = ("encode", "decode")


def shard_codec(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a network in place over the one-dimensional `mesh`.

    One unit each: the largest, X-codec2's generator, has 0.24B parameters. Weights are gathered in float32, and what is
    computed in bfloat16 is autocast's choice: spectra are not.
    """
    fully_shard(network, mesh=mesh)
    for name in ENTRANCES:
        if hasattr(network, name):
            register_fsdp_forward_method(network, name)


def restore_frozen(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the frozen speech encoders of a sharded module what a checkpoint's `state_dict` holds of them.

    Lightning fills a sharded module by the names of its parameters and buffers, and these networks are neither. Raises
    RuntimeError where a weight is missing.
    """
    for name, part in module.named_modules():
        if isinstance(part, SemanticEncoder):
            start = f"{name}."
            part.load_state_dict({key.removeprefix(start): weights[key] for key in weights if key.startswith(start)})


def clip_gradients(weights: Sequence[nn.Parameter], largest: float) -> Tensor:
    """Scale the gradients of all `weights` to a norm of `largest` at most. The norm before, over all ranks: scalar."""
    norm = nn.utils.clip_grad_norm_(weights, largest)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm.detach()
