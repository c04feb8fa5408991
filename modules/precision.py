"""Precision: what this machine computes fast, for training and for inference, and what autocast has chosen.

bfloat16 halves the bytes of every weight. CUDA devices from compute capability 8.0 on and CPUs with AMX multiply it
faster than float32. CPUs with AVX-512 bf16 and no AMX train faster in it, but sample hardly faster from a small model:
on two cores of an AMD EPYC, 2026-11-27, torch 2.13, a training step of the demo's codec was 1.6 times and one of its
language model 1.9 times as fast, sampling one row 1.1 and sixteen rows 1.2 times (benchmarks/precision.py, wall time,
15 rounds). On other CPUs it is slower.
"""

import torch


def automatic_precision(accelerator: str) -> tuple[str, str]:
    """Lightning's `trainer.precision` for an accelerator ("auto", "cpu", "gpu", "cuda", ...), and the reason."""
    kind = "cpu" if "cpu" in accelerator.lower() else accelerator.lower()
    if "auto" in kind and not torch.cuda.is_available():
        kind = "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cpu" and not _has("amx_tile") and _has("avx512_bf16"):
        return "bf16-mixed", "this CPU has AVX-512 bf16"
    dtype, reason = inference_dtype("cuda" if any(name in kind for name in ("auto", "gpu", "cuda")) else kind)
    return ("bf16-mixed" if dtype == torch.bfloat16 else "32-true"), reason


def inference_dtype(device: torch.device | str) -> tuple[torch.dtype, str]:
    """The dtype of a model's weights for inference on a device, and the reason."""
    kind = str(device).partition(":")[0]
    if kind == "cpu":
        if _has("amx_tile"):
            return torch.bfloat16, "this CPU has AMX"
        slower = "hardly faster for a small model" if _has("avx512_bf16") else "slower"
        return torch.float32, f"no AMX: bf16 would be {slower}"
    if kind != "cuda":
        return torch.float32, f"bf16 is not chosen on {kind}"
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16, "this GPU has bf16"
    return torch.float32, "no GPU with bf16"


def product_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The dtype of matrix products with a tensor: that of autocast, if it is on, else its own."""
    kind = tensor.device.type
    is_on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if is_on else tensor.dtype


def _has(feature: str) -> bool:
    """Whether this CPU has a feature. torch.cpu has no public question for it, and not in every version."""
    is_supported = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return is_supported is not None and bool(is_supported())
