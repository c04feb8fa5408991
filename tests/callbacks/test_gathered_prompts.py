"""Prompts distributed over two ranks: what is exchanged between them, and what each has afterwards."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from callbacks.gathered_prompts import gathered_prompts
from modules.api import Audio, Prompt
from modules.tokens import Utterance
from tests.toys.search_toys import ToyCodec

NUM_SAMPLES = 16_000
BySet = dict[int, list[Prompt]]


class RankCodec(ToyCodec):
    """Encodes like the toy, except that on rank 1 its first code differs, as on other hardware; counts what it
    encoded."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.num_read = rank, 0

    def encode(self, audio_BT: torch.Tensor, num_samples_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.num_read += len(audio_BT)
        codes_BS, num_codes_B = super().encode(audio_BT, num_samples_B)
        codes_BS[:, 0] = self.rank
        return codes_BS, num_codes_B


def prompts_with_voices() -> BySet:
    generator = torch.Generator().manual_seed(0)
    prompts = [
        Prompt(f"p{i}", f"text {i}", reference=Audio(torch.rand(NUM_SAMPLES, generator=generator) * 0.9, 16_000),
               voice=Utterance("voice") if i != 2 else None)
        for i in range(6)
    ]  # fmt: skip
    return {0: prompts[:4], 1: prompts[4:]}


def on_rank(rank: int, folder: Path, read: Callable[[int], BySet]) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    whole, sent = torch.distributed.all_gather_object, []

    def counting(everyone: list, own: object) -> None:
        sent.append(len(pickle.dumps(own)))
        whole(everyone, own)

    torch.distributed.all_gather_object = counting
    codec = RankCodec(rank)
    by_set = gathered_prompts(read(rank), codec, rank, 2)
    torch.save((by_set, codec.num_read, sum(sent)), folder / f"rank{rank}.pt")


def same_everywhere(rank: int) -> BySet:
    return prompts_with_voices()


def dealt_out(rank: int) -> BySet:
    """Distribute like a distributed sampler: strides, the last one filled up with a repeat."""
    by_set = prompts_with_voices()
    return {0: by_set[0][rank::2], 1: by_set[1][:1]}


@pytest.mark.parametrize("read", [same_everywhere, dealt_out])
def test_ranks_hold_the_same_prompts_with_the_same_codes(tmp_path: Path, read: Callable[[int], BySet]) -> None:
    """Guards against prompts that are lost or swapped between ranks, voices in one rank's own codes, which another rank
    would not find in the store, recordings returned by every rank, and voices encoded by each."""
    torch.multiprocessing.start_processes(on_rank, (tmp_path, read), nprocs=2, start_method="fork")
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    (first, *_), (second, *_) = ranks
    expected = gathered_prompts(prompts_with_voices(), ToyCodec())
    for by_set in (first, second):
        held = {place: {prompt.key: prompt for prompt in prompts} for place, prompts in by_set.items()}
        wanted = {place: [one for one in prompts if one.key in held[place]] for place, prompts in expected.items()}
        assert list(held) == [0, 1] and len(held[0]) == 4 and len(held[1]) == (2 if read is same_everywhere else 1)
        for place, prompts in wanted.items():
            for one in prompts:
                ours = held[place][one.key]
                assert ours.text == one.text and torch.equal(ours.reference.samples_T, one.reference.samples_T)
                assert (ours.voice is None) == (one.voice is None) == (one.key == "p2")
                assert ours.voice is None or ours.voice.codes[1:] == one.voice.codes[1:]
    codes = [[(one.key, one.voice) for prompts in by_set.values() for one in prompts] for by_set in (first, second)]
    assert codes[0] == codes[1]
    if read is same_everywhere:
        assert [key for key, _ in codes[0]] == [f"p{i}" for i in range(6)]
        assert sum(num_read for _, num_read, _ in ranks) == 5  # every voice once
        assert max(num_bytes for *_, num_bytes in ranks) < 4 * NUM_SAMPLES  # less than one recording
