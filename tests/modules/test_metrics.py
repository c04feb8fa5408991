"""modules/metrics.py against numpy, scipy and the packages behind STOI and PESQ."""

from collections import Counter

import numpy as np
import pytest
import torch
from pesq import pesq
from pystoi import stoi
from scipy import stats

from modules.metrics import CodeUsage, pesq_scores, stoi_scores


def speech_like(seconds: float, rate: int = 16000, seed: int = 0) -> torch.Tensor:
    """A buzz with formant-like noise in syllables, in which PESQ and STOI detect speech."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    buzz = sum(np.sin(2 * np.pi * 120 * harmonic * time) / harmonic for harmonic in range(1, 20))
    envelope = np.clip(np.sin(2 * np.pi * 3 * time), 0, None)
    return torch.tensor(0.2 * envelope * (buzz + 0.3 * generator.standard_normal(time.size)), dtype=torch.float32)


def ranked(metric_class, updates_by_rank, **arguments):
    """`compute` of rank 0 when torch.distributed's gather is replaced by one that returns every rank's state."""
    ranks = [metric_class(**arguments) for _ in updates_by_rank]
    for metric, updates in zip(ranks, updates_by_rank, strict=True):
        for update in updates:
            metric.update(*update)

    ranks[0].dist_sync_fn = lambda tensor, group=None: [metric.counts_K.to(tensor.dtype) for metric in ranks_before]
    ranks_before = [metric.clone() for metric in ranks]
    ranks[0].distributed_available_fn = lambda: True
    return ranks[0].compute()


def test_code_usage_equals_a_naive_count():
    """Guards against counting padding as code 0, and against entropy in the wrong base."""
    generator = torch.Generator().manual_seed(0)
    metric, seen = CodeUsage(codebook_size=50), []
    for length in (7, 12):
        codes_BS = torch.randint(0, 30, (3, length), generator=generator)
        num_codes_B = torch.tensor([length, length - 4, 0])
        for row, valid in zip(codes_BS.tolist(), num_codes_B.tolist(), strict=True):
            seen.extend(row[:valid])
        metric.update(codes_BS, num_codes_B)
    result = metric.compute()
    frequencies = np.array(list(Counter(seen).values())) / len(seen)
    assert float(result.usage) == pytest.approx(len(set(seen)) / 50)
    assert float(result.perplexity) == pytest.approx(np.exp(stats.entropy(frequencies)))
    assert int(metric.counts_K.sum()) == len(seen)


def test_code_usage_of_known_distributions():
    """A uniform codebook has perplexity K, a collapsed one 1: guards against a wrong formula."""
    uniform, collapsed = CodeUsage(64), CodeUsage(64)
    uniform.update(torch.arange(64).view(4, 16), torch.full((4,), 16))
    collapsed.update(torch.full((4, 16), 9), torch.full((4,), 16))
    assert float(uniform.compute().perplexity) == pytest.approx(64)
    assert float(uniform.compute().usage) == 1
    assert float(collapsed.compute().perplexity) == pytest.approx(1)
    assert float(collapsed.compute().usage) == pytest.approx(1 / 64)


def test_code_usage_sums_over_ranks():
    """Guards against averaging per-rank usage: two ranks that each use another half of the codebook use all of it."""
    halves = [(torch.arange(start, start + 8).view(1, 8), torch.tensor([8])) for start in (0, 8)]
    result = ranked(CodeUsage, [[halves[0]], [halves[1]]], codebook_size=16)
    assert float(result.usage) == 1
    assert float(result.perplexity) == pytest.approx(16)


def test_stoi_and_pesq_equal_their_packages_on_unpadded_audio():
    """Guards against padding, order of arguments and precision: a padded batch gives the results of single calls."""
    clean, other = speech_like(1.6), speech_like(1.1, seed=1)
    noisy = [
        audio + 0.05 * torch.randn(audio.shape, generator=torch.Generator().manual_seed(2)) for audio in (clean, other)
    ]
    lengths_B = torch.tensor([clean.numel(), other.numel()])
    reference_BT, degraded_BT = torch.ones(2, clean.numel() + 500), torch.zeros(2, clean.numel() + 500)
    for row, (left, right) in enumerate(zip((clean, other), noisy, strict=True)):
        reference_BT[row, : left.numel()], degraded_BT[row, : right.numel()] = left, right
    pairs = [(left.double().numpy(), right.double().numpy()) for left, right in zip((clean, other), noisy, strict=True)]
    expected = [stoi(left, right, 16000) for left, right in pairs]
    assert stoi_scores(reference_BT, degraded_BT, lengths_B, 16000).tolist() == pytest.approx(expected)
    for mode in ("wb", "nb"):
        expected = [pesq(16000, left, right, mode) for left, right in pairs]
        got = pesq_scores(reference_BT, degraded_BT, lengths_B, 16000, mode)
        assert got.tolist() == pytest.approx(expected, abs=1e-3)


def test_what_cannot_be_judged_is_nan_and_does_not_spoil_its_neighbours():
    """Guards against torchmetrics' dropping of failed PESQ items and pystoi's placeholder of 1e-5 for short audio."""
    clean = speech_like(1.6)
    reference_BT = torch.stack([clean, torch.zeros_like(clean), clean, clean, clean])
    degraded_BT = torch.stack([clean, clean, torch.zeros_like(clean), clean * float("nan"), clean])
    lengths_B = torch.tensor([clean.numel()] * 4 + [900])
    for scores in (
        stoi_scores(reference_BT, degraded_BT, lengths_B, 16000),
        pesq_scores(reference_BT, degraded_BT, lengths_B, 16000),
    ):
        assert scores.shape == (5,)
        assert not scores[0].isnan() and scores[1:].isnan().all()
    empty = torch.zeros(1, 100), torch.zeros(1, 100), torch.tensor([0])
    assert stoi_scores(*empty, 16000).isnan().all() and pesq_scores(*empty, 16000).isnan().all()


def test_wrong_arguments_are_named():
    """Guards against PESQ's own error, which names neither the argument nor the value."""
    audio, length = torch.zeros(1, 100), torch.tensor([100])
    with pytest.raises(ValueError, match=r"Expected `sample_rate`.*22050"):
        pesq_scores(audio, audio, length, 22050)
    with pytest.raises(ValueError, match="Expected `mode`"):
        pesq_scores(audio, audio, length, 16000, "xb")
    with pytest.raises(ValueError, match="Expected `degraded_BT`"):
        stoi_scores(audio, torch.zeros(1, 90), length, 16000)
    with pytest.raises(ValueError, match="Expected `codebook_size`"):
        CodeUsage(0)
