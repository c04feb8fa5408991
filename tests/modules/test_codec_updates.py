"""Codec updates with non-finite gradients, against a run without them."""

from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from modules.batches import AudioBatch
from modules.codec.training import guarded_updates as updates
from modules.codec_module import CodecModule
from tests.modules.test_codec_parallel import Crops, build, trainer_of, whole

FUSED = partial(torch.optim.AdamW, lr=1e-3, betas=(0.8, 0.9), weight_decay=0.1, fused=True)
PLAIN = partial(torch.optim.AdamW, lr=1e-3, betas=(0.8, 0.9), weight_decay=0.1)


class Spoiled(Crops):
    """Crops, with those of the steps `spoiled` broken."""

    spoiled = (2, 3)

    def __getitem__(self, step: int) -> AudioBatch:
        batch = super().__getitem__(step)
        if step in self.spoiled:
            batch.audio_BT[0, 100:200] = float("nan")
        return batch


class Weights(L.Callback):
    """Weights after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: CodecModule, *_: object) -> None:
        self.seen.append(whole(module))


def codec(optimizer: object) -> CodecModule:
    return build(
        optimizer=optimizer, discriminator_optimizer=optimizer, discriminator_start_step=0, perceptual_loss=None
    )


def train(module: CodecModule, batches: type[Crops], **changes: object) -> tuple[L.Trainer, Weights]:
    weights = Weights()
    trainer = trainer_of("auto", 1, callbacks=[weights], log_every_n_steps=1, **changes)
    trainer.fit(module, DataLoader(batches(0, 1), batch_size=None))
    return trainer, weights


@pytest.mark.parametrize("optimizer", [FUSED, PLAIN], ids=["fused", "plain"])
def test_an_update_that_is_not_finite_is_skipped_and_counted(optimizer: object, tmp_path: Path) -> None:
    """Guards against one broken batch that silently fills weights and moments of either network with NaN."""
    trainer, weights = train(codec(optimizer), Spoiled)
    assert all(torch.isfinite(weight).all() for weight in weights.seen[-1].values())
    assert len(weights.seen) == 6
    moved = [
        {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
        for before, after in zip(weights.seen, weights.seen[1:], strict=False)
    ]
    everything = {"generator", "discriminator", "semantic_decoder"}
    assert moved[0] == moved[3] == moved[4] == everything
    for raw in trainer.optimizers:
        assert all(torch.isfinite(moment).all() for state in raw.state.values() for moment in state.values())
    if optimizer is FUSED:
        assert moved[1] == moved[2] == set()
        steps = {float(state["step"]) for raw in trainer.optimizers for state in raw.state.values()}
        assert steps == {4.0}
    for network in ("generator", "discriminator"):
        assert trainer.callback_metrics[f"train/{network}_skipped_updates"] == 2
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = codec(optimizer)
    resumed._trainer = trainer
    resumed.on_load_checkpoint(torch.load(tmp_path / "last.ckpt", weights_only=False))
    assert resumed._updates["generator"].state_dict() == {"num_skipped": 2, "num_in_a_row": 0}


def test_a_guarded_update_is_the_update() -> None:
    """Guards against a guard that changes accepted updates: equal to torch's own step, to the last bit."""
    made = []
    for guarded in (True, False):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(5))
        raw = FUSED([weight])
        guard = updates.GuardedUpdates("generator")
        for _ in range(3):
            weight.grad = torch.randn(5)
            if guarded:
                with guard.around(raw, weight.grad.norm()):
                    raw.step()
            else:
                raw.step()
        made.append(weight.detach())
    assert torch.equal(*made)


def test_too_many_skipped_updates_in_a_row_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against weeks of steps that learn nothing; two in a row followed by a good one do not end the run."""
    monkeypatch.setattr(updates, "MAX_SKIPPED_IN_A_ROW", 2)
    monkeypatch.setattr(Spoiled, "spoiled", (2, 3, 4))
    module = codec(FUSED)
    with pytest.raises(RuntimeError, match="finite gradient of the generator, but got 3 others in a row"):
        train(module, Spoiled)
    reference = codec(FUSED)
    train(reference, Crops, max_steps=2)
    for name, weight in whole(reference).items():
        assert torch.equal(whole(module)[name], weight)
    monkeypatch.setattr(Spoiled, "spoiled", (1, 2, 4, 5))
    train(codec(FUSED), Spoiled)
