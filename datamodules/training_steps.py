"""Computes the number of steps for some epochs over token shards: the `max_steps` of a training config.

    python -m datamodules.training_steps data/tokens/train --prompt_format configs/demo/prompt_format.yaml \\
        --row_length 2048 --rows_per_step 1024 --epochs 3

counts the tokens of all texts first, unless already counted (datamodules/token_counts.py): training runs on these
shards that start afterwards plan their rows by them.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from datamodules.token_counts import count_tokens, stored_counts
from datamodules.tokens import TokenRows, load_token_index
from modules.api import PromptFormat
from modules.threads import num_cores


@dataclass(frozen=True)
class TrainingSteps:
    """Result: `num_rows` of all epochs and their `num_tokens`, without padding."""

    num_samples: int
    num_too_long: int
    num_rows: int
    num_tokens: int
    row_length: int
    rows_per_step: int

    @property
    def max_steps(self) -> int:
        return math.ceil(self.num_rows / self.rows_per_step)

    @property
    def fullness(self) -> float:
        return self.num_tokens / (self.num_rows * self.row_length)


def training_steps(rows: TokenRows, rows_per_step: int, epochs: int = 1) -> TrainingSteps:
    """Pack every window of every epoch, as training does; the result is exact."""
    num_rows = num_tokens = 0
    for epoch in range(epochs):
        for window in range(rows.num_windows):
            planned = rows.rows(epoch, window)
            num_rows += len(planned)
            num_tokens += int(sum(rows.document_lengths[row].sum() for row in planned))
    num_too_long = len(rows.index) - len(rows.usable)
    return TrainingSteps(len(rows.index), num_too_long, num_rows, num_tokens, rows.row_length, rows_per_step)


def main(arguments: list[str] | None = None) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="python -m datamodules.training_steps", description=__doc__)
    parser.add_argument("folder", type=Path, help="token shards of the training split")
    parser.add_argument("--prompt_format", type=PromptFormat, required=True, sub_configs=True, help="class or yaml")
    parser.add_argument("--row_length", type=int, required=True, help="as in the datamodule's yaml")
    parser.add_argument(
        "--rows_per_step", type=int, required=True, help="batch_size x devices x num_nodes x accumulate_grad_batches"
    )
    parser.add_argument("--epochs", type=int, default=1, help="how often each sample is read")
    parser.add_argument("--seed", type=int, default=0, help="of the datamodule")
    parser.add_argument("--num_workers", type=int, default=num_cores(), help="processes that count tokens")
    given = parser.instantiate(parser.parse_args(arguments))
    try:
        index = load_token_index(given.folder, given.prompt_format)
        counts = stored_counts(index, given.prompt_format)
        if counts is None:
            counts = count_tokens(index, given.prompt_format, given.num_workers)
        rows = TokenRows(index, given.prompt_format, given.row_length, given.seed, counts=[counts])
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    found = training_steps(rows, given.rows_per_step, given.epochs)
    print(
        f"{given.folder}: {found.num_samples:,} samples, {found.num_too_long:,} of them longer than a row; texts of "
        f"{int(index.text_lengths.sum()):,} bytes are {int(counts.text_N.sum()):,} tokens\n"
        f"{given.epochs} epochs: {found.num_rows:,} rows of {given.row_length:,} tokens, {found.fullness:.1%} full\n"
        f"max_steps: {found.max_steps}  # {given.rows_per_step:,} rows a step"
    )


if __name__ == "__main__":
    main()
