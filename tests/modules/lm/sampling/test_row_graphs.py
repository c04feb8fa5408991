"""modules/lm/sampling/row_graphs.py: the step of fixed shapes that a CUDA graph replays, against the growing cache."""

import pytest
import torch

from modules.api import Prompt, SamplingSettings
from modules.lm.sampling import row_graphs
from modules.lm.sampling.row_graphs import RowGraphs
from modules.lm.sampling.sampler import KVCacheSampler
from tests.toys.lm_toys import FORMAT, toy_network

SETTINGS = {
    "plain": SamplingSettings(),
    "restricted": SamplingSettings(temperature=0.8, top_k=9, top_p=0.9, repetition_penalty=1.3),
}


@pytest.mark.parametrize("capture", [False, pytest.param(True, marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="graphs need a GPU"))])  # fmt: skip
@pytest.mark.parametrize("settings", SETTINGS)
def test_fixed_columns_sample_the_same_codes(settings: str, capture: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against columns of a longer row before, a mask that is off by one, codes lost where the width doubles, and
    noise or penalties that start anew. The reference is the cache that grows; widths of 16, 32 and 64 are passed."""
    monkeypatch.setattr(row_graphs, "_SMALLEST_WIDTH", 16)
    network = toy_network().to("cuda" if capture else "cpu")
    with torch.no_grad():
        network.lm_head.weight[FORMAT.token_space.speech_end].zero_()  # else the first codes are the last
    growing, fixed = (KVCacheSampler(network, FORMAT, SETTINGS[settings]) for _ in range(2))
    growing.row_graphs = RowGraphs(network, growing.words, growing.settings)
    growing.row_graphs._has_failed = True
    fixed.row_graphs = RowGraphs(network, fixed.words, fixed.settings, capture)
    for text, seed in (("seven eight", 5), ("one", 6), ("one", 7)):
        (whole,) = growing.extend(growing.start([Prompt("a", text)]), 1, 50, [seed])
        (once,) = fixed.extend(fixed.start([Prompt("a", text)]), 1, 50, [seed])
        (parts,) = fixed.start([Prompt("a", text)])
        for num_tokens in (1, 9, 17, 23):
            (parts,) = fixed.extend([parts], 1, num_tokens, [seed])
        for branch in (once, parts):
            assert torch.equal(branch.codes_S, whole.codes_S) and branch.stopped == whole.stopped
            assert branch.log_probability == pytest.approx(whole.log_probability, abs=1e-3)
    assert fixed.row_graphs.widths == [16, 32, 64]
    assert not growing.row_graphs.widths and fixed.num_recomputed_tokens == 0


def test_a_cpu_samples_as_before() -> None:
    """Guards against fixed columns where no graph pays for them."""
    sampler = KVCacheSampler(toy_network(), FORMAT, SamplingSettings())
    sampler.extend(sampler.start([Prompt("a", "one")]), 1, 3, [1])
    assert not sampler.row_graphs.widths
