"""Batches that datamodules pass to LightningModules, and predictions that those return.

Not frozen: Lightning moves them to a device by setting their fields.

Shapes: B batch, T audio samples, S code frames, C channels, R rows of L tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, fields, replace
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from modules.api import Prompt

UNKNOWN = -100  # label of a frame without one; cross entropy leaves it out


class Movable:
    """Base of batches: allows a DataLoader with `pin_memory` to pin the tensors, and Lightning to move the batch as a
    whole. Without it Lightning copies every field that is not a tensor, and fails for frozen records; here those are
    unchanged."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # subclasses are dataclasses

    def pin_memory(self) -> Self:
        return self._changed(lambda value: value.pin_memory())

    def to(self, device: torch.device, non_blocking: bool = True) -> Self:
        """Move to a device; from pinned memory to a GPU without waiting."""
        non_blocking = non_blocking and torch.device(device).type == "cuda"
        return self._changed(lambda value: value.to(device, non_blocking=non_blocking))

    def _changed(self, change: Callable[[Any], Any]) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{k: change(v) for k, v in values.items() if isinstance(v, Tensor | Movable)})


@runtime_checkable
class NamesPromptSets(Protocol):
    """Optional for a datamodule of prompts: the name of each dataloader's prompt set."""

    @property
    def prompt_set_names(self) -> Sequence[str]: ...


@dataclass
class AudioBatch(Movable):
    """Padded audio: `audio_BT` float32, `num_samples_B` int64, and a description of each item. `semantic_BSC`: the
    states of a frozen speech encoder, one per started frame, if the shards contain them. `rows` are the places of the
    items in the index of their split. `phonemes_BF`: labels of frames (modules.frontend.phoneme_labels), if the data
    gives them; UNKNOWN for none."""

    audio_BT: Tensor
    num_samples_B: Tensor
    keys: list[str]
    metadata: list[dict[str, Any]]
    semantic_BSC: Tensor | None = None
    rows: list[int] | None = None
    phonemes_BF: Tensor | None = None


@dataclass
class TokenBatch(Movable):
    """Packed rows of documents: R rows of L tokens.

    `tokens_RL` int64; `labels_RL` the next token, or -100 for no loss; `positions_RL` restart at each document;
    `documents_RL` numbers the documents of a row from 0, padding is -1; `tasks_RL` is each token's task in a mixture.
    """

    tokens_RL: Tensor
    labels_RL: Tensor
    positions_RL: Tensor
    documents_RL: Tensor
    tasks_RL: Tensor | None = None


@dataclass
class PromptBatch(Movable):
    """Prompts for sampling and, if their codes are known, the same prompts as rows for the teacher-forced loss."""

    prompts: list[Prompt]
    tokens: TokenBatch | None = None


@dataclass
class CodePrediction:
    """Output of the codec's predict_step: `codes_BS` int64 with `num_codes_B`, and their batch."""

    codes_BS: Tensor
    num_codes_B: Tensor
    batch: AudioBatch


def pad_rows(rows: Sequence[Tensor], value: float = 0) -> tuple[Tensor, Tensor]:
    """Stack 1-D tensors into (len(rows), longest), padded with `value`. Returns the stack and the lengths (int64)."""
    lengths_B = torch.tensor([row.numel() for row in rows], dtype=torch.int64)
    padded = rows[0].new_full((len(rows), int(lengths_B.max())), value)
    for target, row in zip(padded, rows, strict=True):
        target[: row.numel()] = row
    return padded, lengths_B
