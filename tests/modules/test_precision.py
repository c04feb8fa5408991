"""Automatic precision: what a machine can decides, a run prints and uses it, and its stage resumes elsewhere."""

from pathlib import Path

import pytest
import torch
import yaml

import run
from modules.precision import automatic_precision, inference_dtype, product_dtype
from tests.modules import test_stages
from tests.modules.test_stages import JOURNAL, ToyModule, read_marker

toys = test_stages.toys
FIT = ["fit", "--config", "fit.yaml"]
AUTO = [*FIT, "--precision", "auto"]
MIXED, FULL = ("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, torch.dtype]]:
    """The trainer's precision and the dtype of the toy's layer in every training step."""
    steps, step = [], ToyModule.training_step

    def recorded(self: ToyModule, batch: torch.Tensor, batch_index: int) -> torch.Tensor:
        steps.append((self.trainer.precision, self.layer(batch).dtype))
        return step(self, batch, batch_index)

    monkeypatch.setattr(ToyModule, "training_step", recorded)
    return steps


@pytest.fixture
def has_amx(monkeypatch: pytest.MonkeyPatch):
    def be(answer: bool, avx512_bf16: bool = False) -> None:
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: answer, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16, raising=False)

    return be


def test_what_the_machine_can_decides(has_amx, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against bf16 where it is slower or emulated, and against a version of torch that cannot be asked."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for answer, precision, dtype in ((True, *MIXED), (False, *FULL)):
        has_amx(answer)
        for accelerator in ("cpu", "auto", "lightning.pytorch.accelerators.CPUAccelerator"):
            assert automatic_precision(accelerator)[0] == precision, accelerator
        assert inference_dtype("cpu")[0] == inference_dtype(torch.device("cpu"))[0] == dtype
    has_amx(True)
    assert automatic_precision("gpu") == ("32-true", "no GPU with bf16"), "the CPU does not answer for a GPU"
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert automatic_precision("cpu") == ("32-true", "no AMX: bf16 would be slower")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has_bf16, precision, dtype in ((True, *MIXED), (False, *FULL)):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True, own=has_bf16: including_emulation or own
        )
        for accelerator in ("auto", "gpu", "cuda"):
            assert automatic_precision(accelerator)[0] == precision, (accelerator, has_bf16)
        assert inference_dtype("cuda:1")[0] == dtype
        assert automatic_precision("cpu")[0] == "32-true"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert automatic_precision("auto")[0] == "32-true" and inference_dtype("mps")[0] == torch.float32


def test_avx512_bf16_pays_for_training_alone(has_amx, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against bf16 weights where they hardly sample faster, training in float32 at two thirds of the speed, and
    a version of torch that cannot be asked."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    has_amx(False, avx512_bf16=True)
    for accelerator in ("cpu", "auto"):
        assert automatic_precision(accelerator) == ("bf16-mixed", "this CPU has AVX-512 bf16")
    assert inference_dtype("cpu") == (torch.float32, "no AMX: bf16 would be hardly faster for a small model")
    assert automatic_precision("gpu")[0] == "32-true", "the CPU does not answer for a GPU"
    has_amx(True, avx512_bf16=True)
    assert automatic_precision("cpu")[1] == "this CPU has AMX" and inference_dtype("cpu")[0] == torch.bfloat16
    has_amx(False, avx512_bf16=True)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert automatic_precision("cpu") == ("32-true", "no AMX: bf16 would be slower")


def test_a_run_uses_and_prints_what_was_picked(toys: Path, seen: list, has_amx, capsys: pytest.CaptureFixture) -> None:
    """Guards against an option that is printed and not used, and against one that overrides another in silence."""
    has_amx(True)
    run.main(AUTO)
    assert set(seen) == {MIXED} and len(seen) == 4
    assert "precision auto: bf16-mixed (this CPU has AMX)\n" in capsys.readouterr().out
    seen.clear()
    has_amx(False)
    Path("16.yaml").write_text("trainer: {precision: bf16-true}\nstage: {folder: runs/toy/other}")
    run.main([*FIT, "--config", "16.yaml", "--precision", "auto"])
    assert set(seen) == {FULL}
    line = "precision auto: 32-true (no AMX: bf16 would be slower), in place of the config's bf16-true\n"
    assert line in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run.main([*AUTO, "--trainer.precision", "32"])
    assert "got both (--trainer.precision=32)" in capsys.readouterr().err
    seen.clear()
    Path("auto.yaml").write_text("precision: auto\nstage: {folder: runs/toy/third}")
    run.main([*FIT, "--config", "auto.yaml", "--trainer.precision", "bf16-true"])
    assert set(seen) == {("bf16-true", torch.bfloat16)}, "an option goes before `precision: auto` of a yaml"


def test_every_command_picks(toys: Path, has_amx, capsys: pytest.CaptureFixture) -> None:
    """Guards against an option that only a fit reads."""
    has_amx(True)
    run.main(["predict", "--config", "first.yaml", "--precision", "auto"])
    assert "precision auto: bf16-mixed" in capsys.readouterr().out
    assert read_marker("first", "predict")["config"]["precision"] == "auto"


def test_a_run_resumes_on_a_machine_that_picks_otherwise(
    toys: Path, seen: list, has_amx, capsys: pytest.CaptureFixture
) -> None:
    """Guards against a marker that holds the pick: the same command elsewhere would start over."""
    has_amx(True)
    with pytest.raises(ArithmeticError):
        run.main([*AUTO, "--model.init_args.fail_at_step", "2"])
    config = read_marker("train", "fit")["config"]
    assert config["precision"] == "auto" and config["trainer"]["precision"] is None
    has_amx(False)
    Path("repaired").touch()
    run.main([*AUTO, "--model.init_args.fail_at_step", "2"])
    assert [step for _, step in JOURNAL] == [0, 2] and seen == [MIXED] * 3 + [FULL] * 2
    assert "train: unfinished, fit resumes" in capsys.readouterr().out
    run.main([*FIT, "--model.init_args.fail_at_step", "2"])
    assert "changed since: precision" in capsys.readouterr().out, "another precision gives another model"


def test_without_the_option_nothing_changes(toys: Path, seen: list, has_amx, capsys: pytest.CaptureFixture) -> None:
    """Guards against bf16 that nobody asked for, and against a stage, finished before the option existed, that runs
    again: its marker has no such key."""
    has_amx(True)
    run.main(FIT)
    assert set(seen) == {FULL}
    marker = read_marker("train", "fit")
    assert marker["finished"] and "precision" not in marker["config"]
    assert yaml.safe_load(Path("runs/toy/train/config.yaml").read_text())["trainer"]["precision"] is None
    run.main([*FIT, "--precision", "null"])
    out = capsys.readouterr().out
    assert "train: finished earlier" in out and "precision auto" not in out
    assert len(JOURNAL) == 1


def test_products_have_the_dtype_of_autocast():
    """Guards against a dtype of autocast while it is off, and devices that have none."""
    weight = torch.zeros(1)
    with torch.autocast("cpu", torch.bfloat16):
        assert product_dtype(weight) == (weight[None] @ weight).dtype == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert product_dtype(weight) == torch.float32
    assert product_dtype(weight.half()) == torch.float16
    assert product_dtype(weight.to("meta")) == torch.float32
