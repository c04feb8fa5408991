"""Codecs from files: our checkpoints, X-codec2's and NeuCodec's released files, transformers' folders.

On the command line: python -m modules.codec.formats.checkpoints convert SOURCE FOLDER

Shapes: B batch, T samples, S frames.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modules.api import CodecFacts
from modules.checkpoint_files import SHARDS_METADATA
from modules.codec.formats.released import load_released
from modules.codec.formats.tensor_names import training_networks
from modules.codec.formats.transformers_folder import load_transformers, save_transformers
from modules.codec.formats.weights import fill, local_path, read_folder, read_tensors
from modules.codec.formats.xcodec2 import describe_xcodec2, shape_of
from modules.codec.generator import CodecGenerator
from modules.described import instantiate

PREFIX = "generator."
TRAINING_NETWORKS = "discriminator.", "semantic_decoder.", "phoneme_classifier."


@dataclass(frozen=True)
class StoredCodec:
    """What a file holds of a codec.

    Attributes:
        generator: As it is trained: in training mode, with gradients.
        description: Of `generator`, as a checkpoint of CodecModule has it: {class_path, init_args}.
        networks: Weights of the other networks of its training, by their names in CodecModule: `discriminator.*`,
            `semantic_decoder.*`, `phoneme_classifier.*`. Files for use alone have none.
    """

    generator: CodecGenerator
    description: dict[str, Any]
    networks: Mapping[str, Tensor] = field(default_factory=dict)


class CodecCheckpoint:
    """A trained codec, frozen, as a yaml names it. Satisfies Codec; constructing it does not touch the file.

    Args:
        path: As of load_codec.
        device: Where it runs; "auto" is CUDA where there is one.
        semantic_model: As of load_codec.
    """

    def __init__(self, path: Path, device: str = "auto", semantic_model: str | None = None) -> None:
        self.path, self.device, self.semantic_model = Path(path), device, semantic_model

    def load(self) -> CodecGenerator:
        """The codec itself, on the CPU. Raises as load_codec."""
        return load_codec(self.path, self.semantic_model)

    def read(self) -> StoredCodec:
        """The codec and what its training needs, on the CPU. Raises as load_codec."""
        return read_codec(self.path, self.semantic_model)

    @cached_property
    def generator(self) -> CodecGenerator:
        device = self.device if self.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        return self.load().to(device)

    @property
    def facts(self) -> CodecFacts:
        return self.generator.facts

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


def load_codec(path: Path | str, semantic_model: str | None = None) -> CodecGenerator:
    """The codec of a file or folder, in evaluation mode, without gradients.

    Args:
        path: A checkpoint of CodecModule; a released file (.safetensors, .ckpt, .bin) or a folder that holds one; a
            folder of transformers' Xcodec2Model or NeuCodecModel; the hub name of such a folder. The names of the
            tensors tell them apart; a released file's config.json is not read.
        semantic_model: Folder or hub id of the semantic network, for a released file that does not hold it.

    Raises FileNotFoundError where there is nothing, ValueError where it is no codec, or where a tensor is missing, is
    surplus, has another shape or would not be used.
    """
    return _frozen(read_codec(path, semantic_model).generator)


def read_codec(path: Path | str, semantic_model: str | None = None) -> StoredCodec:
    """As load_codec, for training: the codec with gradients, its description and the other networks of the file."""
    path = local_path(Path(path))
    content = read_folder(path) if path.is_dir() else read_tensors(path)
    if "generator" in content.get("hyper_parameters", {}):
        return _read_ours(content, path)
    tensors = content.get("state_dict", content)
    # By the tensors' names alone: the released folder's config.json claims the type of transformers' own.
    if any(key.startswith("CodecEnc.") for key in tensors):
        codec = load_released(tensors, path, semantic_model)
        return StoredCodec(codec, describe_xcodec2(shape_of(codec)), training_networks(tensors))
    if any(key.startswith("acoustic_encoder.") for key in tensors):
        codec = load_transformers(path if path.is_dir() else path.parent, tensors)
        return StoredCodec(codec, describe_xcodec2(shape_of(codec)))
    raise ValueError(
        f"Expected a checkpoint of CodecModule, a released X-codec2 or NeuCodec, or the folder of transformers' "
        f"Xcodec2Model or NeuCodecModel at `{path}`, but it describes no generator and holds no such tensors."
    )


def load_generator(path: Path) -> CodecGenerator:
    """The generator of a CodecModule checkpoint, in evaluation mode, without gradients.

    Raises FileNotFoundError where there is no file, ValueError where it is no codec or a tensor is missing or surplus.
    """
    return _frozen(_read_ours(read_tensors(Path(path)), path).generator)


def describe_resumed(path: Path) -> StoredCodec:
    """The codec that a checkpoint of CodecModule describes, or the folder of its shards: its weights are not read.

    Raises FileNotFoundError where there is no file, ValueError where it describes none.
    """
    return _described(read_tensors(path / SHARDS_METADATA if path.is_dir() else path), path)


def _described(checkpoint: Mapping[str, Any], path: Path) -> StoredCodec:
    description = checkpoint.get("hyper_parameters", {}).get("generator")
    if description is None:
        raise ValueError(f"Expected a checkpoint of CodecModule at `{path}`, but it describes no generator.")
    return StoredCodec(instantiate(description, "modules.codec", nn.Module), description)


def _read_ours(checkpoint: Mapping[str, Any], path: Path) -> StoredCodec:
    """The codec of a CodecModule checkpoint's content."""
    stored, state = _described(checkpoint, path), checkpoint["state_dict"]
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    fill(stored.generator, weights, [], path)
    return replace(stored, networks={name: state[name] for name in state if name.startswith(TRAINING_NETWORKS)})


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert any codec file into a folder of transformers."""
    parser = argparse.ArgumentParser(prog="python -m modules.codec.formats.checkpoints", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser("convert", help="write a folder that transformers loads")
    convert.add_argument("source", type=Path, help="checkpoint, released file or transformers' folder")
    convert.add_argument("folder", type=Path, help="is made where it is not there")
    convert.add_argument("--semantic_model", help="folder or hub id, where SOURCE lacks the semantic network")
    given = parser.parse_args(arguments)
    try:
        save_transformers(load_codec(given.source, given.semantic_model), given.folder)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {' '.join(str(error).split())}\n")
    print(f"wrote {given.folder}")


def match_classifier(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Drop the classifier of phonemes that only one of module and checkpoint has, in place: a codec that is not trained
    does not need it."""
    stored = [key for key in weights if key.startswith("phoneme_classifier.")]
    if weights and not stored:
        module.phoneme_classifier = None
    elif module.phoneme_classifier is None:
        for key in stored:
            del weights[key]


def _frozen(codec: CodecGenerator) -> CodecGenerator:
    return codec.eval().requires_grad_(False)


if __name__ == "__main__":
    main()
