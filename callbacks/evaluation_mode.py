"""Evaluation mode within training."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import LightningModule


@contextmanager
def evaluation_mode(pl_module: LightningModule) -> Iterator[None]:
    """Context in which all submodules are in evaluation mode. Restores the mode of each."""
    modes = [(module, module.training) for module in pl_module.modules()]
    pl_module.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
