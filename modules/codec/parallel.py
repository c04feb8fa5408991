"""The parallel plan of the codec's networks: FSDP2, one unit per network."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


def shard_codec(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a network in place over the one-dimensional `mesh`.

    One unit each: the largest, X-codec2's generator, has 0.24B parameters. Weights are gathered in float32, and what is
    computed in bfloat16 is autocast's choice: spectra are not.
    """
    fully_shard(network, mesh=mesh)


def clip_gradients(weights: Sequence[nn.Parameter], largest: float) -> Tensor:
    """Scale the gradients of all `weights` to a norm of `largest` at most. The norm before, over all ranks: scalar."""
    norm = nn.utils.clip_grad_norm_(weights, largest)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm.detach()
