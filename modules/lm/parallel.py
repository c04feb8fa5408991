"""The parallel plan of the language model: FSDP2, one unit per block."""

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from modules.lm.network import SpeechLanguageModel


def shard_data_parallel(
    model: SpeechLanguageModel, mesh: DeviceMesh, parameter_dtype: torch.dtype | None = None
) -> None:
    """Shard `model` in place over the one-dimensional `mesh`: each block, then what is left (embedding, norm, head).

    Args:
        parameter_dtype: What gathered weights are computed in; gradients are then still reduced in float32.
    """
    policy = MixedPrecisionPolicy()
    if parameter_dtype is not None:
        policy = MixedPrecisionPolicy(param_dtype=parameter_dtype, reduce_dtype=torch.float32)
    for block in model.llama.model.layers:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
