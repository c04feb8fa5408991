"""Values over utterances with their bootstrap intervals; every system is resampled with the same draws of utterances.

Shapes: U utterances, R resamples, Q codebooks, S code frames, K entries of a codebook.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from modules.metrics import code_statistics
from modules.statistics import Estimate, resample_counts, spread_interval


def code_estimates(
    codes: Sequence[np.ndarray | None], codebook_size: int, seed: int, num_resamples: int = 2000
) -> dict[str, Estimate]:
    """`code_usage` (fraction of the entries sent at least once) and `code_perplexity`, means over the codebooks.

    `codes` has (Q, S) for each utterance, or None. Both grow with the number of utterances, and a resample with
    replacement has fewer distinct ones: the interval is the spread of the resamples, centred on the value.
    """
    judged = [codes_QS for codes_QS in codes if codes_QS is not None and codes_QS.size]
    num, num_unjudged = len(judged), len(codes) - len(judged)
    if not num:
        return dict.fromkeys(("code_usage", "code_perplexity"), Estimate(*3 * [math.nan], 0, num_unjudged))
    counts_RU = np.vstack([np.ones(num), resample_counts(num, seed, num_resamples)])  # first the utterances themselves
    owner_S = np.repeat(np.arange(num), [codes_QS.shape[1] for codes_QS in judged])
    both_2R = np.zeros((2, len(counts_RU)))
    for codes_S in np.concatenate(judged, axis=1):
        for row, counts_U in enumerate(counts_RU):
            counts_K = torch.from_numpy(np.bincount(codes_S, counts_U[owner_S], codebook_size))
            one = code_statistics(counts_K)
            both_2R[:, row] += float(one.usage), float(one.perplexity)
    both_2R /= judged[0].shape[0]
    estimates = {}
    for name, (value, *drawn) in zip(("code_usage", "code_perplexity"), both_2R, strict=True):
        estimates[name] = Estimate(float(value), *spread_interval(value, np.array(drawn)), num, num_unjudged)
    return estimates
