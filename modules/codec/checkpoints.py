"""CodecCheckpoint: a trained codec as a yaml names it, read from a Lightning checkpoint on first use.

Shapes: B batch, T samples, S frames.
"""

import importlib
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modules.codec.generator import CodecGenerator

PREFIX = "generator."


class CodecCheckpoint:
    """The codec of a CodecModule checkpoint, frozen. Satisfies Codec; constructing it does not touch the file.

    Args:
        path: A checkpoint of CodecModule.
        device: Where it runs; "auto" is CUDA where there is one.
    """

    def __init__(self, path: Path, device: str = "auto") -> None:
        self.path, self.device = Path(path), device

    @cached_property
    def generator(self) -> CodecGenerator:
        device = self.device if self.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        return load_generator(self.path).to(device)

    @property
    def sample_rate(self) -> int:
        return self.generator.sample_rate

    @property
    def frame_rate(self) -> float:
        return self.generator.frame_rate

    @property
    def codebook_size(self) -> int:
        return self.generator.codebook_size

    @cached_property
    def fingerprint(self) -> str:
        return self.generator.fingerprint

    @cached_property
    def decoder_fingerprint(self) -> str:
        return self.generator.decoder_fingerprint

    @torch.no_grad()
    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor]:
        codes_BS, num_codes_B = self.generator.encode(self._here(audio_BT), self._here(num_samples_B))
        return codes_BS.to(audio_BT.device), num_codes_B.to(audio_BT.device)

    @torch.no_grad()
    def decode(self, codes_BS: Tensor, num_codes_B: Tensor, start_frame: int = 0) -> Tensor:
        audio_BT = self.generator.decode(self._here(codes_BS), self._here(num_codes_B), start_frame)
        return audio_BT.to(codes_BS.device)

    def decode_flops(self, num_codes: int) -> float:
        return self.generator.decode_flops(num_codes)

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(next(self.generator.parameters()).device)


def load_generator(path: Path) -> CodecGenerator:
    """The generator of a CodecModule checkpoint, in evaluation mode, without gradients.

    Raises FileNotFoundError where there is no file, ValueError where it is no codec or a tensor is missing or surplus.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected a codec checkpoint at `{path}`, but there is none. Train the codec first.")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    description = checkpoint.get("hyper_parameters", {}).get("generator")
    if description is None:
        raise ValueError(f"Expected a checkpoint of CodecModule at `{path}`, but it describes no generator.")
    weights = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(PREFIX)
    }
    generator = _instantiate(description)
    missing, surplus = generator.load_state_dict(weights, strict=False)
    if missing or surplus:
        raise ValueError(f"Expected the weights of the codec in `{path}`, but missing {missing}, surplus {surplus}.")
    return generator.eval().requires_grad_(False)


def _instantiate(value: Any) -> Any:
    """Build what jsonargparse's {class_path, init_args} describes: modules only, for a checkpoint is data."""
    if isinstance(value, dict) and "class_path" in value:
        module, name = value["class_path"].rsplit(".", 1)
        kind = getattr(importlib.import_module(module), name)
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ValueError(f"Expected the checkpoint to describe parts of a codec, but got {value['class_path']}.")
        arguments = {key: _instantiate(item) for key, item in (value.get("init_args") or {}).items()}
        return kind(**arguments)
    if isinstance(value, list):
        return [_instantiate(item) for item in value]
    return value
