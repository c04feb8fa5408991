"""python scripts/slurm/compare_runs.py RUN OTHER [ATTEMPTS]: does an interrupted fit end as the uninterrupted one?

Compares, bit for bit, every scalar that two runs logged (a step that an interrupted run made twice: both times) and
the weights and the optimizer's state in their last checkpoints. Prints "equal" and exits with 0, or the first
difference and 1.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Scalars = dict[tuple[int, str], list[float]]  # (step, tag) -> the values of all attempts


def read_scalars(run: Path) -> tuple[Scalars, int]:
    """What the run logged, and the number of its attempts: each writes a file of events of its own."""
    paths = sorted((run / "tensorboard").glob("events.out.tfevents.*"))
    scalars: Scalars = {}
    num_attempts = 0
    for path in paths:
        events = EventAccumulator(str(path), size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
        tags = events.Tags()["scalars"]
        num_attempts += bool(tags)
        for tag in tags:
            for event in events.Scalars(tag):
                scalars.setdefault((event.step, tag), []).append(event.value)
    return scalars, num_attempts


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every (dotted name, tensor or plain value) in nested dictionaries and lists."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from leaves(item, f"{name}.{place}")
    else:
        yield name, value


def read_weights(run: Path) -> dict[str, Any]:
    """Weights and the optimizer's state of the last checkpoint, flat."""
    checkpoint = torch.load(run / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)
    return dict(leaves({key: checkpoint[key] for key in ("state_dict", "optimizer_states", "global_step")}))


def same(one: Any, other: Any) -> bool:
    """Bit for bit; NaN equals NaN."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
    return type(one) is type(other) and (one == other or (one != one and other != other))


def first_difference(run: Path, other: Path) -> str | None:
    """What differs, in the order of steps, then of the weights; None where nothing does."""
    scalars, others = read_scalars(run)[0], read_scalars(other)[0]
    if not scalars:
        return f"no scalars in {run / 'tensorboard'}"
    for step, tag in sorted(scalars.keys() | others.keys()):
        values = [*scalars.get((step, tag), ["nothing"]), *others.get((step, tag), ["nothing"])]
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
    scalars, num_attempts = read_scalars(arguments.other)
    if num_attempts < arguments.attempts:
        print(f"{arguments.other} was not interrupted as it should be: {num_attempts} attempts logged steps")
        return 1
    if difference := first_difference(arguments.run, arguments.other):
        print(f"first difference: {difference}")
        return 1
    num_values = sum(map(len, scalars.values()))
    print(
        f"equal: {len(scalars)} scalars of {len({step for step, _ in scalars})} steps ({num_values} in {num_attempts} "
        f"attempts), {len(read_weights(arguments.other))} tensors and numbers of the last checkpoint"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
