"""Rate, device and hash of a codec."""

import torch
from torch import nn

from modules.api import Codec


def input_rate(codec: Codec) -> int:
    """Hz of what `encode` takes: `input_sample_rate` of a codec whose output has another rate (as NeuCodec's)."""
    return getattr(codec, "input_sample_rate", codec.sample_rate)


def device_of(codec: Codec) -> torch.device:
    """Where a codec that is a network runs; other Codecs take tensors on the CPU."""
    return next(codec.parameters()).device if isinstance(codec, nn.Module) else torch.device("cpu")


def codec_hash(codec: Codec) -> str:
    """Of all weights where the codec gives that, else of the encode path."""
    return getattr(codec, "decoder_fingerprint", codec.fingerprint)
