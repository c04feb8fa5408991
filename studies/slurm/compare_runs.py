"""python -m studies.slurm.compare_runs RUN OTHER [ATTEMPTS]: checks that an interrupted fit equals an uninterrupted
one.

Compares, bit for bit, every scalar that two runs logged (a step that an interrupted run made twice: both times) and the
weights and the optimizer's state in their last checkpoints. Prints "equal" and exits with 0, or the first difference
and 1.

Lightning logs a step after it has saved the checkpoint that follows it. A run interrupted in between continues after
that step, which is then missing in the log, but not in the weights: such steps are counted.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


@dataclass
class Log:
    """Scalars of a run: (step, tag) -> the values of all attempts; and the first step that each attempt logged."""

    scalars: dict[tuple[int, str], list[float]] = field(default_factory=dict)
    first_steps: list[int] = field(default_factory=list)

    @property
    def steps(self) -> set[int]:
        return {step for step, _ in self.scalars}


def read_log(run: Path) -> Log:
    """Read the scalars that a run logged. Each attempt writes its own events file."""
    log = Log()
    for path in sorted((run / "tensorboard").glob("events.out.tfevents.*")):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
        tags = set(events.Tags()["scalars"]) - {"hp_metric"}  # from the hyper-parameters, at step 0 of every attempt
        found = [(event.step, tag, event.value) for tag in tags for event in events.Scalars(tag)]
        for step, tag, value in found:
            log.scalars.setdefault((step, tag), []).append(value)
        if found:
            log.first_steps.append(min(step for step, _, _ in found))
    return log


def unlogged(log: Log, other: Log) -> set[tuple[int, str]]:
    """Return what only `other` logged, in steps at which attempts of `log` ended before logging."""
    last_steps = {step - 1 for step in log.first_steps}
    return {(step, tag) for step, tag in other.scalars.keys() - log.scalars.keys() if step in last_steps}


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every (dotted name, tensor or plain value) in nested dictionaries and lists."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from leaves(item, f"{name}.{place}")
    else:
        yield name, value


def read_weights(run: Path) -> dict[str, Any]:
    """Read weights and the optimizer's state of the last checkpoint, flattened."""
    checkpoint = torch.load(run / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)
    return dict(leaves({key: checkpoint[key] for key in ("state_dict", "optimizer_states", "global_step")}))


def same(one: Any, other: Any) -> bool:
    """Compare bit for bit; NaN equals NaN."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
    return type(one) is type(other) and (one == other or (one != one and other != other))


def first_difference(run: Path, other: Path) -> str | None:
    """Describe the first difference, in the order of steps, then of the weights; None if there is none."""
    log, other_log = read_log(run), read_log(other)
    excused = unlogged(log, other_log) | unlogged(other_log, log)
    if not log.scalars:
        return f"no scalars in {run / 'tensorboard'}"
    for step, tag in sorted((log.scalars.keys() | other_log.scalars.keys()) - excused):
        ours, theirs = (one.scalars.get((step, tag), []) for one in (log, other_log))
        values = [*(ours or ["nothing"]), *(theirs or ["nothing"])]
        if different := [value for value in values if not same(values[0], value)]:
            return f"step {step}, {tag}: {values[0]!r} in {run}, {different[0]!r} in {other}"
    weights, other_weights = read_weights(run), read_weights(other)
    for name in dict.fromkeys([*weights, *other_weights]):
        if not (name in weights and name in other_weights and same(weights[name], other_weights[name])):
            return f"{name} in the last checkpoint"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("attempts", type=int, nargs="?", default=1, help="that OTHER must have had at least")
    arguments = parser.parse_args()
    log = read_log(arguments.other)
    num_attempts = len(log.first_steps)
    if num_attempts < arguments.attempts:
        print(f"{arguments.other} was not interrupted as it should be: {num_attempts} attempts logged steps")
        return 1
    if difference := first_difference(arguments.run, arguments.other):
        print(f"first difference: {difference}")
        return 1
    missing = sorted({step for step, _ in unlogged(log, read_log(arguments.run))})
    num_values = sum(map(len, log.scalars.values()))
    print(
        f"equal: {num_values} scalars of {len(log.steps)} steps, in {num_attempts} attempts that began at steps "
        f"{', '.join(map(str, log.first_steps))}; {len(read_weights(arguments.other))} tensors and numbers of the last "
        f"checkpoint. Not in the log: {', '.join(map(str, missing)) or 'no step'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
