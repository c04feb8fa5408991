"""Digests of weights, which name stored results."""

import torch
from torch import nn

from modules.provenance import weights_hash


def test_the_digest_of_weights_keeps_its_bytes() -> None:
    """Guards against a digest that changes: it stands in evaluations, and the codec's, which tests/modules/codec/
    test_fingerprints.py has, in token shards. This value is that of the first version."""
    network = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2, dtype=torch.bfloat16))
    for number, weight in enumerate(network.parameters()):
        weight.data = (torch.arange(weight.numel()).view(weight.shape) * 0.5 - number).to(weight.dtype)
    stored = "cac355323687ca0c4c414f97ccf394d104c5aa407964869c4fe4beef5972640f"
    assert weights_hash(network.state_dict()) == stored
    assert weights_hash(dict(reversed(network.state_dict().items()))) == stored
    assert weights_hash(network.state_dict(), "settings") != stored
