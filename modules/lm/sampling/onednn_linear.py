"""Product of few rows with a large weight matrix, which dominates the cost of sampling a token."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def weight_product(rows_RC: Tensor, weight_OC: Tensor) -> Tensor:
    """Compute `rows_RC @ weight_OC.T`, (R, O); without gradient if oneDNN computes it.

    Uses oneDNN on a CPU in float32: torch's own product uses MKL, which on AMD processors is half as fast for few rows.
    """
    if rows_RC.device.type == "cpu" and rows_RC.dtype == torch.float32 == weight_OC.dtype and _has_onednn():
        return torch.ops.mkldnn._linear_pointwise(rows_RC, weight_OC, None, "none", [], "")
    return rows_RC @ weight_OC.T


@cache
def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
