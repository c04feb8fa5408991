"""ParameterCount: what a fit prints about the size of its model."""

from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn

from callbacks.parameter_count import ParameterCount, described_parameters


def test_parts_and_frozen_parameters_are_counted() -> None:
    """Guards against frozen parameters counted as trained, and parts without parameters in the line."""
    module = nn.ModuleDict({"frozen": nn.Linear(999, 2), "head": nn.Linear(1, 2, bias=False), "loss": nn.L1Loss()})
    line = "2,002 parameters, all trained: frozen 2,000 (Linear), head 2 (Linear)"
    assert described_parameters(module) == line
    module["frozen"].requires_grad_(False)
    assert described_parameters(module) == line.replace("all trained", "2 of them trained")
    assert described_parameters(nn.Linear(3, 1)) == "4 parameters, all trained: Linear"


def test_a_fit_prints_the_line_once(capsys, tmp_path) -> None:
    """Guards against a fit that says nothing about the size of its model."""
    trainer = Trainer(
        accelerator="cpu", max_steps=2, limit_val_batches=0, logger=False, enable_model_summary=False,
        enable_progress_bar=False, enable_checkpointing=False, default_root_dir=tmp_path, callbacks=[ParameterCount()],
    )  # fmt: skip
    trainer.fit(BoringModel())
    assert capsys.readouterr().out.splitlines() == ["66 parameters, all trained: layer 66 (Linear)"]
