"""ParameterCount: prints the size of a model when its fit starts."""

from collections.abc import Iterable

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from modules.report.training_record import readable_count


class ParameterCount(Callback):
    """Prints the numbers of parameters of a fit's module and of its parts, and how many of them are trained.

    In place of Lightning's table, which `--trainer.enable_model_summary true` adds.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            print(described_parameters(pl_module), flush=True)


def described_parameters(module: nn.Module) -> str:
    """A line with the number of parameters, how many are trained, and the children that have any."""
    total = _count(module.parameters())
    trained = _count(one for one in module.parameters() if one.requires_grad)
    parts = [
        f"{name} {readable_count(size)} ({type(child).__name__})"
        for name, child in module.named_children()
        if (size := _count(child.parameters()))
    ]
    share = "all trained" if trained == total else f"{readable_count(trained)} of them trained"
    return f"{readable_count(total)} parameters, {share}: {', '.join(parts) or type(module).__name__}"


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(one.numel() for one in parameters)
