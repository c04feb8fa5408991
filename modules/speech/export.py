"""Exports a voice as modules/lm/checkpoints.py does, also with the facts of a checkpoint that stores none.

    python -m modules.speech.export runs/demo/lm/checkpoints/last.ckpt FOLDER [--codec CODEC] [--with_codec]

Checkpoints of earlier versions store no facts of their training data; they are read from the token shards that the
run's marker names, so that the exported voice refuses words that it never learned. With `--dtype float16 --with_codec`
the codec is stored in half precision too: its codes may differ from the original's, so the voice gets the fingerprint
of the copy.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from datamodules.shards.training_facts import facts_of_model
from modules.checkpoint_files import read_checkpoint
from modules.codec.formats.checkpoints import CodecCheckpoint
from modules.lm import checkpoints
from modules.lm.voice_file import CODEC, VoiceFile


def facts_of_run(path: Path) -> Mapping[str, Any] | None:
    """Facts of a checkpoint's training data as plain data, relative paths from the working folder or the repository;
    None if nothing leads to any. Raises as checkpoints.read_model."""
    checkpoint = checkpoints.read_model(path)
    roots = (Path.cwd(), checkpoints.REPOSITORY)
    found = next((facts for root in roots if (facts := facts_of_model(checkpoint, path, root)) is not None), None)
    return None if found is None else found.plain()


def store_codec(folder: Path, dtype: torch.dtype) -> None:
    """Store the codec of an exported voice in another precision, and its new fingerprint in voice.json and the card."""
    path = folder / CODEC
    content = read_checkpoint(path, "a checkpoint of CodecModule")
    weights = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in content["state_dict"].items()
    }
    torch.save({**content, "state_dict": weights}, path)
    voice = VoiceFile.read(folder)
    assert voice is not None
    stored = replace(voice, codec=CODEC, codec_fingerprint=CodecCheckpoint(path, "cpu").fingerprint)
    stored.write(folder)
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8")
    card.write_text(text.replace(voice.codec_fingerprint, stored.codec_fingerprint), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    given = checkpoints.main(["export", *(sys.argv[1:] if arguments is None else arguments)], facts_of_run)
    if given.with_codec and given.dtype != "float32":
        store_codec(given.folder, getattr(torch, given.dtype))


if __name__ == "__main__":
    main()
