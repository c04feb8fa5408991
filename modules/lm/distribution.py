"""From logits to the next token: repetition penalty, temperature, top-k, nucleus, min-p, and the draw itself.

Shapes: R rows, V words.
"""

import math

import torch
from torch import Tensor

from modules.api import SamplingSettings


def penalised(logits_RV: Tensor, seen_RV: Tensor, penalty: float) -> Tensor:
    """A logit of a seen word is divided by `penalty` if it is above 0 and multiplied by it if below."""
    return torch.where(seen_RV, torch.where(logits_RV > 0, logits_RV / penalty, logits_RV * penalty), logits_RV)


def restrict(logits_RV: Tensor, settings: SamplingSettings) -> Tensor:
    """Logits over temperature, with -inf outside the `top_k` largest, the nucleus of mass `top_p` and `min_p`.

    The nucleus (Holtzman et al., arXiv 1904.09751) is the smallest set of largest words whose mass reaches `top_p`;
    words that tie with its smallest stay in it, so the result never depends on how a sort orders ties.
    """
    logits_RV = logits_RV / settings.temperature
    if settings.min_p > 0:  # a ratio of probabilities: what the other two leave out does not change it
        floor_R1 = logits_RV.amax(-1, keepdim=True) + math.log(settings.min_p)
        return _nucleus(logits_RV, settings).masked_fill(logits_RV < floor_R1, float("-inf"))
    return _nucleus(logits_RV, settings)


def _nucleus(logits_RV: Tensor, settings: SamplingSettings) -> Tensor:
    num_words = logits_RV.shape[-1]
    top_k = min(settings.top_k or num_words, num_words)
    if top_k == num_words and settings.top_p == 1:
        return logits_RV
    descending_RV = _sort_descending(logits_RV)[:, :top_k]
    num_kept_R = torch.full((len(logits_RV), 1), top_k, device=logits_RV.device)
    if settings.top_p < 1:
        mass_RV = descending_RV.softmax(-1).cumsum(-1, dtype=torch.float64)
        num_kept_R = (mass_RV < settings.top_p).sum(-1, keepdim=True).add(1).clamp(max=top_k)
    threshold_R1 = descending_RV.gather(1, num_kept_R - 1)
    return logits_RV.masked_fill(logits_RV < threshold_R1, float("-inf"))


def _sort_descending(values_RV: Tensor) -> Tensor:
    """On a CPU by numpy, whose vectorised sort of plain values is tens of times faster than torch's."""
    if values_RV.device.type == "cpu":
        import numpy

        return torch.from_numpy(numpy.sort(values_RV.float().numpy(), axis=-1)).flip(-1)
    return values_RV.sort(-1, descending=True).values


def draw(logits_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """One word per row by the inverse of the cumulative distribution in index order; `uniform_R` in (0, 1), float64.

    In index order a rounding difference of the logits moves the bounds between words by as little, so another batch
    size draws the same words except where a uniform number falls within rounding of a bound.
    """
    cumulative_RV = logits_RV.float().softmax(-1).cumsum(-1, dtype=torch.float64)
    target_R1 = uniform_R[:, None] * cumulative_RV[:, -1:]
    return torch.searchsorted(cumulative_RV, target_R1, right=True).squeeze(1)
