"""TensorBoard's scalars of a language-model training, against a loop by hand."""

import math
from collections import defaultdict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from benchmarks import lm_overhead
from modules.batches import TokenBatch
from modules.lm.attention import find_segments
from modules.lm_module import LMModule

NUM_STEPS, VALIDATION_BATCHES = 20, slice(0, 3)  # the config logs every tenth step


class Data(lm_overhead.ReadyData):
    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.batches[VALIDATION_BATCHES], batch_size=None)


def shown(folder: Path, data: Data, num_micro_batches: int) -> dict[str, dict[int, float]]:
    """The scalars of a run under the configured Trainer, by tag and step."""
    trainer = lm_overhead.configured_trainer(
        folder, NUM_STEPS, lm_overhead.Marks(1), limit_val_batches=1.0,
        accumulate_grad_batches=num_micro_batches, val_check_interval=NUM_STEPS * num_micro_batches,
    )  # fmt: skip
    with lm_overhead.quiet():
        trainer.fit(lm_overhead.new_module(NUM_STEPS), data)
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def by_hand(data: Data, num_micro_batches: int) -> dict[str, dict[int, float]]:
    module = lm_overhead.new_module(NUM_STEPS)
    weights = list(module.network.train().parameters())
    optimizer = module.optimizer(weights)
    scheduler = module.scheduler(optimizer)
    found, losses_by_task = defaultdict(dict), defaultdict(list)
    for step in range(NUM_STEPS):
        is_logged = step % 10 == 9
        optimizer.zero_grad()
        batches = data.batches[step * num_micro_batches : (step + 1) * num_micro_batches]
        losses = torch.cat([losses_of(module, batch, losses_by_task) for batch in batches])
        losses.mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
        if is_logged:
            values = {"loss": losses.mean().item(), "perplexity": math.exp(losses.mean()), "num_targets": len(losses)}
            values |= {"gradient_norm": norm.item(), "num_skipped_steps": 0}
            values |= {f"loss_{task}": sum(values) / len(values) for task, values in losses_by_task.items()}
            for name, value in values.items():
                found[f"train/{name}"][step] = value
            found["train/lr-AdamW"][step], found["train/epoch"][step] = optimizer.param_groups[0]["lr"], 0
            losses_by_task.clear()
        optimizer.step()
        scheduler.step()
    validated = defaultdict(list)
    everything = torch.cat([losses_of(module, batch, validated) for batch in data.batches[VALIDATION_BATCHES]])
    found["val/loss"][NUM_STEPS - 1] = everything.mean().item()
    for task, values in validated.items():
        found[f"val/loss_{task}"][NUM_STEPS - 1] = sum(values) / len(values)
    return found


def losses_of(module: LMModule, batch: TokenBatch, by_task: dict[str, list[float]]) -> torch.Tensor:
    """Losses of each target, added in `by_task` to its task's."""
    hidden_RLC = module.network.llama.model(
        input_ids=batch.tokens_RL, position_ids=batch.positions_RL, segments=find_segments(batch.documents_RL)
    ).last_hidden_state
    is_learned = batch.labels_RL >= 0
    losses_N = F.cross_entropy(
        module.network.llama.lm_head(hidden_RLC[is_learned]), batch.labels_RL[is_learned], reduction="none"
    )
    for loss, task in zip(losses_N.tolist(), batch.tasks_RL[is_learned].tolist(), strict=True):
        by_task[lm_overhead.TASKS[task]].append(loss)
    return losses_N


@pytest.mark.parametrize("num_micro_batches", [1, 2])
def test_tensorboard_shows_what_a_loop_by_hand_finds(tmp_path, num_micro_batches):
    """Guards against a scalar that is missing, at another step, or of one micro-batch instead of all."""
    torch.set_num_threads(1)
    data = Data(NUM_STEPS * num_micro_batches)
    got, expected = shown(tmp_path, data, num_micro_batches), by_hand(data, num_micro_batches)
    got = {
        tag: points for tag, points in got.items() if not tag.endswith(("_tokens_per_second", "/mfu", "_memory_gb"))
    }  # differ from run to run
    assert got.keys() == expected.keys()
    for tag, values in expected.items():
        steps = {step: value for step, value in got[tag].items() if tag != "train/epoch" or step < NUM_STEPS}
        assert steps == pytest.approx(values, rel=1e-4), tag
