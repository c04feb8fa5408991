"""modules/batches.py: what a DataLoader does with batches that are dataclasses."""

import pytest
import torch

from modules.batches import AudioBatch, PromptBatch, TokenBatch


def test_every_tensor_of_a_batch_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against batches in pageable memory, whose copy to a GPU makes the program wait."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    audio = AudioBatch(torch.zeros(2, 3), torch.tensor([3, 2]), ["a", "b"], [{}, {}])
    tokens = TokenBatch(*(torch.zeros(1, 4, dtype=torch.long) for _ in range(4)))
    given = [audio, PromptBatch([], tokens)]
    made = torch.utils.data._utils.pin_memory.pin_memory(given)
    assert len(pinned) == 6
    assert made[0].audio_BT is not audio.audio_BT and made[0].keys == ["a", "b"]
    assert torch.equal(made[1].tokens.tokens_RL, tokens.tokens_RL)
