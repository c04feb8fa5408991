"""Exports a voice as modules/lm/checkpoints.py does, also with the facts of a checkpoint that stores none.

    python -m modules.speech.export runs/demo/lm/checkpoints/last.ckpt FOLDER [--codec CODEC] [--with_codec]

Checkpoints of earlier versions store no facts of their training data; they are read from the token shards that the
run's marker names, so that the exported voice refuses words that it never learned.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.shards.training_facts import facts_of_model
from modules.lm import checkpoints


def facts_of_run(path: Path) -> Mapping[str, Any] | None:
    """Facts of a checkpoint's training data as plain data, relative paths from the working folder or the repository;
    None if nothing leads to any. Raises as checkpoints.read_model."""
    checkpoint = checkpoints.read_model(path)
    roots = (Path.cwd(), checkpoints.REPOSITORY)
    found = next((facts for root in roots if (facts := facts_of_model(checkpoint, path, root)) is not None), None)
    return None if found is None else found.plain()


def main(arguments: list[str] | None = None) -> None:
    checkpoints.main(["export", *(sys.argv[1:] if arguments is None else arguments)], facts_of_run)


if __name__ == "__main__":
    main()
