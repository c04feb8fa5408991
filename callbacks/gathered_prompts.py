"""Gathers the prompts of a sweep on several ranks: the same on each, with codes of their voices."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from modules.api import Codec, Prompt
from modules.search.voices import with_voice_codes

BySet = dict[int, list[Prompt]]  # by dataloader


def gathered_prompts(own: Mapping[int, Sequence[Prompt]], codec: Codec, rank: int = 0, world_size: int = 1) -> BySet:
    """All prompts of all ranks with the codes of their voices, equal on every rank, since they identify stored files.

    If every rank has read the same prompts, each encodes the voices of its stride and only codes are gathered, to avoid
    sending every recording once per rank. If a sampler has distributed the prompts, whole prompts are gathered, with
    repeats.
    """
    prompts = [prompt for some in own.values() for prompt in some]
    names = [(place, prompt.key, prompt.text, prompt.language) for place, some in own.items() for prompt in some]
    if any(others != names for others in _gathered(names, world_size)):
        everyone = _gathered(list(zip(names, with_voice_codes(prompts, codec), strict=True)), world_size)
        pairs = [pair for one in everyone for pair in one]
    else:
        voices: list[Any] = [None] * len(prompts)
        stride = [prompt.voice for prompt in with_voice_codes(prompts[rank::world_size], codec)]
        for place, some in enumerate(_gathered(stride, world_size)):
            voices[place::world_size] = some
        pairs = [(name, replace(one, voice=voice)) for name, one, voice in zip(names, prompts, voices, strict=True)]
    by_set: BySet = {}
    for (place, *_), prompt in pairs:
        by_set.setdefault(place, []).append(prompt)
    return dict(sorted(by_set.items()))


def _gathered(own: Any, world_size: int) -> list[Any]:
    if world_size == 1:
        return [own]
    everyone: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(everyone, own)
    return everyone
