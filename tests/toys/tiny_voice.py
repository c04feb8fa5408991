"""A run as its stages leave it, random and small: a codec, token shards of given texts, and a language model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.shards.shards import ShardWriter
from modules.codec.generator import CodecGenerator
from modules.lm.network import LlamaSize
from modules.lm.text.byte_tokenizer import ByteTokenizer
from modules.lm.text.prompt_format import TextToSpeech
from modules.lm_module import LMModule
from tests.modules.codec.test_parts import tiny_codec

NUM_CODES = 64
CHARACTERS = " abcdefghijklmnopqrstuvwxyz"
FORMAT = TextToSpeech(ByteTokenizer(CHARACTERS), NUM_CODES)
SIZE = LlamaSize(hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, max_positions=384)
PROMPT_FORMAT = {
    "class_path": "modules.lm.text.prompt_format.TextToSpeech",
    "init_args": {
        "tokenizer": {
            "class_path": "modules.lm.text.byte_tokenizer.ByteTokenizer",
            "init_args": {"characters": CHARACTERS},
        },
        "codebook_size": NUM_CODES,
    },
}
TEXTS = ("four two", "Two, one!", "four")


def save_codec(path: Path, scale: float = 1.0) -> CodecGenerator:
    """A checkpoint as CodecModule's; another `scale` gives another fingerprint."""

    def described(name: str, **arguments: Any) -> dict[str, Any]:
        return {"class_path": f"modules.codec.{name}", "init_args": arguments}

    sizes = {"channels": 32, "num_layers": 2, "hidden_channels": 48}
    rates = {"sample_rate": 16000, "hop_length": 320}
    description = described(
        "generator.CodecGenerator",
        encoder=described("parts.spectral_encoder.SpectralEncoder", **rates, **sizes),
        quantizer=described("parts.quantizers.FiniteScalarQuantizer", channels=32, levels=[4, 4, 4]),
        decoder=described("parts.vocos_decoder.VocosDecoder", **rates, **sizes),
    )
    codec = tiny_codec()
    with torch.no_grad():
        for weight in codec.encoder.parameters():
            weight.mul_(scale)
    state = {f"generator.{name}": weight for name, weight in codec.state_dict().items()}
    state["discriminator.x"] = torch.zeros(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"hyper_parameters": {"generator": description}, "state_dict": state}, path)
    return codec


LICENSE_HOURS = {"CC0-1.0": round(len(TEXTS) * 20 / 50 / 3600, 6)}  # of 20 codes each, 50 a second


def write_tokens(
    folder: Path, texts: Sequence[str], fingerprint: str, codec: str, speakers: Sequence[str] = ()
) -> None:
    """Token shards of `folder/train`, and the marker that a codec's `predict` leaves beside them."""
    generator = np.random.default_rng(0)
    header = {"codebook_size": NUM_CODES, "codec_fingerprint": fingerprint, "frame_rate": 50.0}
    with ShardWriter(folder / "train", "tokens", header) as writer:
        for number, text in enumerate(texts):
            codes = generator.integers(0, NUM_CODES, 20).astype(np.uint16)
            speaker = speakers[number % len(speakers)] if speakers else ""
            about = {"text": text, "language": "en", "license": "CC0-1.0", "speaker": speaker, "source": "toy"}
            writer.write(f"k{number}", {"codes.npy": codes, "json": json.dumps(about).encode()}, len(codes), text)
    (folder / "stage_predict.json").write_text(json.dumps({"config": {"ckpt_path": codec}}))


def lm_checkpoint(fingerprint: str, seed: int = 0) -> dict[str, Any]:
    """What LMModule saves, of random weights."""
    torch.manual_seed(seed)
    module = LMModule(FORMAT, size=SIZE, optimizer=torch.optim.AdamW)
    module.configure_model()
    with torch.no_grad():
        for weight in module.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
    return {
        "state_dict": module.state_dict(),
        "token_space": FORMAT.token_space.as_dict(),
        "network_config": module.network.llama.config.to_json_string(use_diff=False),
        "hyper_parameters": {"prompt_format": PROMPT_FORMAT, "size": vars(SIZE)},
        "codec_fingerprint": fingerprint,
    }


def save_run(root: Path, name: str, stores_facts: bool = True, seed: int = 0) -> Path:
    """`root/runs/NAME` with codec, tokens and lm. Without `stores_facts`, as written before checkpoints had any: the
    marker of the stage names the data. Returns the language model's checkpoint."""
    run = root / "runs" / name
    codec_path = run / "codec/checkpoints/last.ckpt"
    fingerprint = save_codec(codec_path).fingerprint
    write_tokens(run / "tokens", TEXTS, fingerprint, str(codec_path.relative_to(root)))
    content = lm_checkpoint(fingerprint, seed)
    if stores_facts:
        content["training_facts"] = {
            "codec": str(codec_path.relative_to(root)),
            "languages": ["en"],
            "licenses": ["CC0-1.0"],
            "speakers": [],
            "words": ["four", "one", "two"],
            "spoken_prompts": False,
            "row_length": 256,
            "longest_text": 9,
            "license_hours": LICENSE_HOURS,
        }
    path = run / "lm/checkpoints/last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save(content, path)
    arguments = {"folder": str((run / "tokens").relative_to(root)), "row_length": 256, "tasks": None}
    data = {"class_path": "datamodules.tokens.TokenDataModule", "init_args": arguments}
    (run / "lm/stage_fit.json").write_text(json.dumps({"config": {"data": data}}))
    return path
