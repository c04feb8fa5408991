"""`python run.py voices`: what can speak here, as a table or as JSON."""

import argparse
import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from modules.command.line import root_folder

if TYPE_CHECKING:
    from modules.speech.voice_facts import VoiceFacts

HEADER = ("name", "kind", "languages", "licence", "size", "speaks", "voice prompts", "codec", "date")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NOTHING = "Nothing here can speak yet. "


def main(arguments: Sequence[str], root: Path | None = None) -> int:
    """Print the voices under `root`, unless `--root` names another, and in the hub's cache. Returns the exit status."""
    from modules.speech.models import HOW_TO_GET_ONE, list_models

    parser = argparse.ArgumentParser(
        prog="python run.py voices",
        description="What can speak here: trained runs, exported folders, shipped voices, the hub's cache.",
    )
    parser.add_argument("--json", action="store_true", help="everything that is known, as JSON")
    parser.add_argument("--root", type=Path, default=root, help="folder of runs/ (default: the repository)")
    given = parser.parse_args(list(arguments))
    voices = list_models(root_folder(given.root))
    if given.json:
        print(json.dumps([asdict(voice) for voice in voices], indent=1, ensure_ascii=False))
    elif voices:
        print(table(voices))
    if not given.json and all(voice.problem for voice in voices):
        print(NOTHING + HOW_TO_GET_ONE)
    return 0


def table(voices: Sequence["VoiceFacts"]) -> str:
    """A line for each voice, and for each damaged one the reason below."""
    rows: list[tuple[str, ...]] = [HEADER, *(row(voice) for voice in voices if not voice.problem)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(one, widths, strict=True)).rstrip() for one in rows]
    damaged = [f"{voice.name}: cannot speak: {voice.problem}" for voice in voices if voice.problem]
    return "\n".join([*(lines if len(rows) > 1 else []), *damaged])


def row(voice: "VoiceFacts") -> tuple[str, ...]:
    return (
        voice.name,
        voice.kind,
        ", ".join(voice.languages) or "unknown",
        ", ".join(voice.licenses) or "unknown",
        f"{short_number(voice.num_parameters)}, {voice.num_bytes / 1e6:,.0f} MB",
        spoken(voice.words),
        "yes" if voice.spoken_prompts else "no",
        codec_cell(voice.codec),
        voice.date,
    )


def codec_cell(codec: str) -> str:
    """A codec's name on the hub, or its file, below the working folder without that, with its size."""
    path = Path(codec)
    if not codec or not path.exists():
        return codec or "unknown: --codec"
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{shown}, {path.stat().st_size / 1e6:,.0f} MB" if path.is_file() else str(shown)


def spoken(words: Sequence[str] | None) -> str:
    """What a voice speaks: "any text", or its words."""
    if words is None:
        return "any text"
    if set(words) == set(DIGITS):
        return "zero to nine"
    return textwrap.shorten(", ".join(words), 60, placeholder=f" ... ({len(words)} words)")


def short_number(number: int) -> str:
    """1,234,567 as 1.2M."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.1f}{name}"
    return str(number)
