"""Noise as a pure function of (seed, position), so that a candidate does not depend on its batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_NUM_BITS = 48  # below 53, so that uniform * total stays below total in float64


def _signed(value: int) -> int:
    """Return the int64 with the bits of `value` modulo 2**64."""
    value &= 0xFFFFFFFFFFFFFFFF
    return value - (1 << 64) if value >= 1 << 63 else value


def _mix(state: Tensor) -> Tensor:
    """Finaliser of splitmix64 (Steele, Lea and Flood 2014) in int64 arithmetic, which wraps like uint64."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ _shift_right(state, shift)) * _signed(factor)
    return state ^ _shift_right(state, 31)


def _shift_right(state: Tensor, num_bits: int) -> Tensor:
    """Logical shift: int64 >> would copy the sign."""
    return (state >> num_bits) & ((1 << (64 - num_bits)) - 1)


def seed_tensor(seeds: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Convert any Python integers to int64 (N,), modulo 2**64."""
    return torch.tensor([_signed(seed) for seed in seeds], dtype=torch.int64, device=device)


def uniform_noise(seeds_N: Tensor, positions_N: Tensor) -> Tensor:
    """Return one number in (0, 1) per row, float64: splitmix64 over the position, started at the mixed seed."""
    gamma = _signed(_GOLDEN_GAMMA)
    bits_N = _mix(_mix(seeds_N + gamma) + (positions_N + 1) * gamma)
    return (_shift_right(bits_N, 64 - _NUM_BITS).double() + 0.5) * 2.0**-_NUM_BITS


def training_seed(seed: int, rank: int, step: int, batch_index: int) -> int:
    """Seed of dropout in one batch of one rank: 32 bits, the range of torch's CPU generator."""
    return int(np.random.SeedSequence([seed, rank, step, batch_index]).generate_state(1)[0])
