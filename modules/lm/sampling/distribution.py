"""Next-token distribution from logits: repetition penalty, temperature, top-k, nucleus, min-p; and sampling from it.

Shapes: R rows, V words, M of them kept.
"""

import math

import numpy
import torch
from torch import Tensor

from modules.api import SamplingSettings


def penalised(logits_RV: Tensor, seen_RV: Tensor, penalty: float) -> Tensor:
    """Repetition penalty: positive logits of seen words are divided by `penalty`, negative ones multiplied."""
    return torch.where(seen_RV, torch.where(logits_RV > 0, logits_RV / penalty, logits_RV * penalty), logits_RV)


def restrict(logits_RV: Tensor, settings: SamplingSettings) -> Tensor:
    """Divide logits by the temperature, with -inf outside the `top_k` largest, the nucleus of mass `top_p` and `min_p`.

    The nucleus (Holtzman et al., arXiv 1904.09751) is the smallest set of largest words whose mass reaches `top_p`;
    words that tie with its smallest are kept, so that the result does not depend on how a sort orders ties.
    """
    logits_RV = logits_RV / settings.temperature
    smallest_R1 = _smallest_kept(logits_RV, settings)
    return logits_RV if smallest_R1 is None else logits_RV.masked_fill(logits_RV < smallest_R1, float("-inf"))


def _smallest_kept(logits_RV: Tensor, settings: SamplingSettings) -> Tensor | None:
    """Return the logit below which words are excluded, (R, 1); None if all are kept."""
    nucleus_R1 = _smallest_of_nucleus(logits_RV, settings)
    if settings.min_p == 0:
        return nucleus_R1
    # A ratio of probabilities, which does not depend on the words that top-k and top-p exclude.
    floor_R1 = logits_RV.amax(-1, keepdim=True) + math.log(settings.min_p)
    return floor_R1 if nucleus_R1 is None else torch.maximum(floor_R1, nucleus_R1)


def _smallest_of_nucleus(logits_RV: Tensor, settings: SamplingSettings) -> Tensor | None:
    num_words = logits_RV.shape[-1]
    top_k = min(settings.top_k or num_words, num_words)
    if top_k == num_words and settings.top_p == 1:
        return None
    descending_RV = _largest(logits_RV, top_k)
    if settings.top_p == 1:
        return descending_RV[:, -1:]
    mass_RV = descending_RV.softmax(-1).cumsum(-1, dtype=torch.float64)
    num_kept_R1 = (mass_RV < settings.top_p).sum(-1, keepdim=True).add(1).clamp(max=top_k)
    return descending_RV.gather(1, num_kept_R1 - 1)


def _largest(values_RV: Tensor, num: int) -> Tensor:
    """The `num` largest of each row, descending. On a CPU uses numpy, which is faster than torch for plain values."""
    if values_RV.device.type == "cpu":
        values = values_RV.float().numpy()
        if num < values.shape[-1]:
            values = numpy.partition(values, -num, axis=-1)[:, -num:]
        return torch.from_numpy(numpy.sort(values, axis=-1)).flip(-1)
    return values_RV.topk(num, dim=-1).values if num < values_RV.shape[-1] else values_RV.sort(-1, True).values


def draw_restricted(logits_RV: Tensor, settings: SamplingSettings, uniform_R: Tensor) -> Tensor:
    """Equal to `draw(restrict(...))`; on a CPU only the kept words are weighted, often 50 of 65,537.

    On other devices it would have to synchronise for their number.
    """
    scaled_RV = logits_RV / settings.temperature
    smallest_R1 = _smallest_kept(scaled_RV, settings) if logits_RV.device.type == "cpu" else None
    if smallest_R1 is None:
        return draw(restrict(logits_RV, settings), uniform_R)
    places = torch.from_numpy(numpy.flatnonzero((scaled_RV >= smallest_R1).numpy()))
    rows, words = places // scaled_RV.shape[1], places % scaled_RV.shape[1]
    num_kept_R = rows.bincount(minlength=len(scaled_RV))
    first_R = num_kept_R.cumsum(0) - num_kept_R
    kept_RM = scaled_RV.new_full((len(scaled_RV), int(num_kept_R.max())), float("-inf"))
    kept_RM[rows, torch.arange(len(rows)) - first_R[rows]] = scaled_RV.flatten()[places]
    return words[first_R + draw(kept_RM, uniform_R)]


def draw(logits_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """Sample one word per row by inverting the cumulative distribution in index order; `uniform_R` in (0, 1), float64.

    In index order a rounding difference of the logits moves the bounds between words equally little, so another batch
    size samples the same words except where a uniform number falls within rounding of a bound.
    """
    cumulative_RV = logits_RV.float().softmax(-1).cumsum(-1, dtype=torch.float64)
    target_R1 = uniform_R[:, None] * cumulative_RV[:, -1:]
    return torch.searchsorted(cumulative_RV, target_R1, right=True).squeeze(1)
