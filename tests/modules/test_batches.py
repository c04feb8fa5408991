"""modules/batches.py: batches that are dataclasses, in a DataLoader."""

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device

from modules.api import Prompt
from modules.batches import AudioBatch, PromptBatch, TokenBatch


def test_every_tensor_of_a_batch_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against batches in pageable memory, whose copy to a GPU is synchronous."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    audio = AudioBatch(torch.zeros(2, 3), torch.tensor([3, 2]), ["a", "b"], [{}, {}])
    tokens = TokenBatch(*(torch.zeros(1, 4, dtype=torch.long) for _ in range(4)))
    given = [audio, PromptBatch([], tokens)]
    made = torch.utils.data._utils.pin_memory.pin_memory(given)
    assert len(pinned) == 6
    assert made[0].audio_BT is not audio.audio_BT and made[0].keys == ["a", "b"]
    assert torch.equal(made[1].tokens.tokens_RL, tokens.tokens_RL)


def test_every_tensor_of_a_batch_is_moved_and_nothing_else() -> None:
    """Guards against a tensor left on the host, and against prompts that Lightning would copy field by field, which
    frozen dataclasses do not allow."""
    audio = AudioBatch(torch.zeros(2, 3), torch.tensor([3, 2]), ["a", "b"], [{}, {}], torch.zeros(2, 1, 4))
    prompts = [Prompt("a", "one")]
    given = PromptBatch(prompts, TokenBatch(*(torch.zeros(1, 4, dtype=torch.long) for _ in range(4))))
    moved_audio, moved = (move_data_to_device(batch, torch.device("meta")) for batch in (audio, given))
    tensors = [value for batch in (moved_audio, moved.tokens) for value in vars(batch).values() if value is not None]
    found = [value.device.type for value in tensors if isinstance(value, torch.Tensor)]
    assert found == ["meta"] * 7 and moved.tokens.tasks_RL is None
    assert moved.prompts is prompts and moved_audio.keys == ["a", "b"] and audio.audio_BT.device.type == "cpu"
