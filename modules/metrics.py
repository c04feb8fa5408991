"""Metrics that torchmetrics lacks: a mean that propagates NaN, code usage, and STOI and PESQ per utterance with NaN for
those that cannot be scored.

Shapes: B utterances, T audio samples, S code frames, K entries of the codebook, G groups.
"""

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

PESQ_RATES = {"wb": (16000,), "nb": (8000, 16000)}


class PooledMean(Metric):
    """Mean over the items of all batches and ranks, from each batch's sum and number of items.

    NaN if any batch's sum is NaN, and if there are no items. torchmetrics' MeanMetric drops batches that are NaN or,
    with `nan_strategy="disable"`, all weights.

    Args:
        num_groups: G. Groups are pooled separately, and `compute` returns the mean of their means.
    """

    full_state_update = False
    totals_G: Tensor
    num_items_G: Tensor

    def __init__(self, num_groups: int = 1) -> None:
        super().__init__()
        self.add_state("totals_G", torch.zeros(num_groups), dist_reduce_fx="sum")
        self.add_state("num_items_G", torch.zeros(num_groups, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, total_G: Tensor, num_items_G: Tensor | int) -> None:
        """Add a batch: the sum over its items and their number, (G,) or one number for all groups."""
        self.totals_G += total_G
        self.num_items_G += torch.as_tensor(num_items_G, device=self.num_items_G.device).long()

    def compute(self) -> Tensor:
        return (self.totals_G / self.num_items_G).mean()


@dataclass
class CodeStatistics:
    """`usage` is the fraction of the codebook used at least once; `perplexity` is exp(entropy) in [1, K], NaN without
    codes; `counts_K` is the number of occurrences of each code."""

    usage: Tensor
    perplexity: Tensor
    counts_K: Tensor


def code_statistics(counts_K: Tensor) -> CodeStatistics:
    """Usage and perplexity from the counts of K codes (VQ-VAE's codebook perplexity, arXiv 1711.00937)."""
    frequencies_K = counts_K.double() / counts_K.sum()
    entropy = -torch.special.xlogy(frequencies_K, frequencies_K).sum()
    return CodeStatistics((counts_K > 0).double().mean(), entropy.exp(), counts_K)


class CodeUsage(Metric):
    """Counts codes over batches and ranks; `compute` returns CodeStatistics.

    Args:
        codebook_size: Number of entries of the codebook, K.
    """

    full_state_update = False
    higher_is_better = True
    counts_K: Tensor

    def __init__(self, codebook_size: int) -> None:
        super().__init__()
        if codebook_size < 1:
            raise ValueError(f"Expected `codebook_size` to be at least 1, but got {codebook_size}.")
        self.codebook_size = codebook_size
        self.add_state("counts_K", torch.zeros(codebook_size, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, codes_BS: Tensor, num_codes_B: Tensor) -> None:
        """Count `codes_BS` (int64 in [0, K)); row b is valid up to `num_codes_B[b]`, the rest is padding."""
        frames_S = torch.arange(codes_BS.shape[1], device=codes_BS.device)
        valid_BS = frames_S < num_codes_B.to(codes_BS.device).unsqueeze(1)
        codes = codes_BS[valid_BS].to(self.counts_K.device)
        self.counts_K += torch.bincount(codes, minlength=self.codebook_size)

    def compute(self) -> CodeStatistics:
        return code_statistics(self.counts_K)


def _trimmed_pairs(
    reference_BT: Tensor, degraded_BT: Tensor, num_samples_B: Tensor
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each utterance without padding, as float64 pairs on the CPU."""
    if reference_BT.shape != degraded_BT.shape:
        expected, got = tuple(reference_BT.shape), tuple(degraded_BT.shape)
        raise ValueError(f"Expected `degraded_BT` to have the shape of `reference_BT`={expected}, but got {got}.")
    reference, degraded = reference_BT.detach().double().cpu().numpy(), degraded_BT.detach().double().cpu().numpy()
    lengths = num_samples_B.tolist()
    return [(reference[row, :length], degraded[row, :length]) for row, length in enumerate(lengths)]


def _comparable(reference_T: np.ndarray, degraded_T: np.ndarray) -> bool:
    """Check that neither is silent or contains non-finite values."""
    return all(
        np.isfinite(audio_T).all() and np.abs(audio_T).max(initial=0) > 0 for audio_T in (reference_T, degraded_T)
    )


def stoi_scores(
    reference_BT: Tensor, degraded_BT: Tensor, num_samples_B: Tensor, sample_rate: int, extended: bool = False
) -> Tensor:
    """Short-time objective intelligibility of each utterance (Taal et al. 2011, through pystoi), float64 (B,).

    NaN if it cannot be computed: silence, or less than 30 frames (0.4 s) of speech, for which pystoi returns a
    placeholder of 1e-5.
    """
    from pystoi import stoi

    scores = []
    for reference_T, degraded_T in _trimmed_pairs(reference_BT, degraded_BT, num_samples_B):
        score = float("nan")
        if _comparable(reference_T, degraded_T):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", RuntimeWarning)
                    score = float(stoi(reference_T, degraded_T, sample_rate, extended=extended))
            except (RuntimeWarning, ValueError, IndexError):  # too short for one window, or for 30 of them
                pass
        scores.append(score)
    return torch.tensor(scores, dtype=torch.float64)


def pesq_scores(
    reference_BT: Tensor, degraded_BT: Tensor, num_samples_B: Tensor, sample_rate: int, mode: Literal["wb", "nb"] = "wb"
) -> Tensor:
    """PESQ of each utterance (ITU-T P.862.2 for wb, P.862 for nb, through the package pesq), float64 (B,).

    NaN if it cannot be computed: silence, no utterance detected, or less than a quarter of a second.
    Raises ValueError if `sample_rate` is not one that the mode is defined for (wb 16000; nb 8000 or 16000).
    """
    from pesq import PesqError, pesq

    if mode not in PESQ_RATES:
        raise ValueError(f"Expected `mode` to be one of {sorted(PESQ_RATES)}, but got {mode!r}.")
    if sample_rate not in PESQ_RATES[mode]:
        raise ValueError(f"Expected `sample_rate` in {PESQ_RATES[mode]} for mode {mode!r}, but got {sample_rate}.")
    scores = []
    for reference_T, degraded_T in _trimmed_pairs(reference_BT, degraded_BT, num_samples_B):
        score = -1.0
        if _comparable(reference_T, degraded_T):
            pair = reference_T.astype(np.float32), degraded_T.astype(np.float32)
            score = pesq(sample_rate, *pair, mode, on_error=PesqError.RETURN_VALUES)
        scores.append(float(score) if score >= 0 else float("nan"))
    return torch.tensor(scores, dtype=torch.float64)
