"""Llasa's training recipe according to its public description: data, batches and step.

One utterance is one stored row of 2,048 ids, right-padded. An item removes the padding, puts the chat template's turns
around text and speech in Python lists, pads again, and returns ids, labels and mask as lists of single elements, which
transformers' default collator converts to tensors. The model is transformers' Llama with its `sdpa` attention; logits
are whole, in float32; gradient checkpointing is always on.

In its favour, and unlike its description: the turns are tokenised once, not for every item, and rows go through the
model one at a time. The start of speech, which its labels also contain, is omitted: both sides have the same targets.

Shapes: N utterances, L tokens of a row.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import LlamaForCausalLM

from modules.tokens import TokenSpace

NO_LABEL = -100


def stored_rows(documents: Sequence[Sequence[int]], row_length: int, pad: int) -> np.ndarray:
    """Return ids (N, L), int32. Longer documents are truncated."""
    rows_NL = np.full((len(documents), row_length), pad, np.int32)
    for row_L, document in zip(rows_NL, documents, strict=True):
        row_L[: len(document)] = document[:row_length]
    return rows_NL


class PaddedUtterances(Dataset):
    """One utterance per item.

    Args:
        rows_NL: From `stored_rows`.
        space: Its start of speech separates context from targets.
        pad: An id that occurs in no document.
        opening, turn: Ids before the text, and between text and speech.
    """

    def __init__(
        self, rows_NL: np.ndarray, space: TokenSpace, pad: int, opening: Sequence[int] = (), turn: Sequence[int] = ()
    ) -> None:
        self.rows_NL, self.speech_start, self.pad = rows_NL, space.speech_start, pad
        self.opening, self.turn = list(opening), list(turn)

    def __len__(self) -> int:
        return len(self.rows_NL)

    def __getitem__(self, number: int) -> dict[str, list[Tensor]]:
        row_length = self.rows_NL.shape[1]
        stored = torch.tensor(self.rows_NL[number], dtype=torch.long)
        tokens = stored[stored != self.pad].tolist()
        start = tokens.index(self.speech_start)
        tokens = (self.opening + tokens[:start] + self.turn + tokens[start:])[:row_length]
        tokens += [self.pad] * (row_length - len(tokens))
        tokens_L = torch.tensor(tokens, dtype=torch.long)
        labels_L = torch.full_like(tokens_L, NO_LABEL)
        first = tokens.index(self.speech_start) + 1
        labels_L[first:] = tokens_L[first:]
        labels_L[tokens_L == self.pad] = NO_LABEL
        mask_L = (tokens_L != self.pad).long()
        fields = {"input_ids": tokens_L, "labels": labels_L, "attention_mask": mask_L}
        return {name: list(field_L) for name, field_L in fields.items()}


def reference_network(network: LlamaForCausalLM) -> LlamaForCausalLM:
    """Return the same weights in transformers' own model, with gradient checkpointing."""
    config = type(network.config)(**{**network.config.to_dict(), "attn_implementation": "sdpa"})
    plain = LlamaForCausalLM(config).train()
    plain.load_state_dict(network.state_dict())
    plain.gradient_checkpointing_enable()
    return plain


def reference_gradients(network: LlamaForCausalLM, batch: dict[str, Tensor], rows_at_once: int = 1) -> float:
    """Add the gradients of the mean loss over all targets, and return that mean, computed by transformers' own loss."""
    num_targets = int((batch["labels"] != NO_LABEL).sum())
    parts = zip(*(field.split(rows_at_once) for field in batch.values()), strict=True)
    total = 0.0
    for part in parts:
        loss = network(**dict(zip(batch, part, strict=True)), num_items_in_batch=num_targets).loss
        loss.backward()
        total += float(loss.detach())
    return total
