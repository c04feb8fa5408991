"""voice.json of an exported language model: what config.json cannot say, and a program needs to speak with it.

format            1
prompt_format     class and arguments of the prompt format; a tokenizer of Hugging Face is the folder's own
codec             path relative to the folder, or to the folder of `runs`; absolute path or hub name; null if unknown
codec_fingerprint that of the codec whose codes it was trained on; "" if unknown
training          facts of its training data (datamodules/shards/training_facts.py); {} if unknown
sampling          the settings it speaks with by default
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modules.api import PromptFormat, SamplingSettings
from modules.checkpoint_files import read_checkpoint
from modules.described import instantiate
from modules.lm.licences import LLASA_CODES, VOICE_FILE
from modules.lm.model_card import DRAWING, WORD_BLOCKS_SAMPLING
from modules.lm.model_card import SAMPLING as CARD_SAMPLING
from modules.moved_names import with_current_names

NAME = VOICE_FILE
FORMAT = 1
CODEC = "codec.ckpt"  # name of a codec inside the folder
SAMPLING = {"temperature": 0.6}  # of models trained from scratch; on the demo's, words are lost at 0.8
TOKENIZER = "modules.lm.text.huggingface_tokenizer.HuggingFaceTokenizer"


@dataclass(frozen=True)
class VoiceFile:
    """Content of a voice.json, as the module's text describes it."""

    prompt_format: dict[str, Any]
    codec: str | None
    codec_fingerprint: str
    training: dict[str, Any]
    sampling: dict[str, Any]

    @classmethod
    def of_checkpoint(
        cls, checkpoint: dict[str, Any], codec: str | None, training: dict[str, Any] | None = None
    ) -> "VoiceFile":
        """That of an LMModule's checkpoint, the codec named for it, and the facts of its training data."""
        prompt_format = with_current_names(checkpoint["hyper_parameters"]["prompt_format"])
        return cls(
            prompt_format, codec, checkpoint.get("codec_fingerprint", ""), training or {}, sampling_of(checkpoint)
        )

    @classmethod
    def read(cls, folder: Path) -> "VoiceFile | None":
        """That of an exported folder; None if it has none. Raises ValueError if it is damaged or of another format."""
        path = folder / NAME
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"Expected `{path}` to be of format {FORMAT}, but got {content['format']!r}.")
            read = cls(*(content[name] for name in cls.__dataclass_fields__))
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"Expected `{path}` to describe a voice, but got {error!r}: export it again.") from error
        if read.codec and (folder / read.codec).exists():
            return cls(read.prompt_format, str(folder / read.codec), *list(vars(read).values())[2:])
        return read

    def write(self, folder: Path) -> None:
        content = {"format": FORMAT, **vars(self), "prompt_format": with_tokenizer(self.prompt_format, ".")}
        (folder / NAME).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def prompt_format_in(self, folder: Path) -> PromptFormat:
        """The prompt format, with the folder's tokenizer. Raises ValueError if it is no class of modules.lm."""
        return instantiate(with_tokenizer(self.prompt_format, str(folder)), "modules.lm")

    @property
    def sampling_settings(self) -> SamplingSettings:
        return SamplingSettings(**self.sampling)


def sampling_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Settings by default of an LMModule's checkpoint: those of Llasa's cards for a Llasa, which started from a
    pretrained network and has X-codec2's codes."""
    is_pretrained = bool(checkpoint["hyper_parameters"].get("pretrained"))
    if is_pretrained and checkpoint["token_space"]["codebook_size"] == LLASA_CODES:
        return {name: value for name, value in CARD_SAMPLING.items() if name in DRAWING}
    prompt_format = checkpoint["hyper_parameters"].get("prompt_format")
    writes_words = isinstance(prompt_format, dict) and str(prompt_format.get("class_path", "")).endswith(".WordBlocks")
    return dict(WORD_BLOCKS_SAMPLING if writes_words else SAMPLING)


def with_tokenizer(description: Any, source: str) -> Any:
    """The description of a prompt format, its Hugging Face tokenizer replaced by that of `source`."""
    if not isinstance(description, dict):
        return description
    if str(description.get("class_path", "")).endswith(".HuggingFaceTokenizer"):
        return {"class_path": TOKENIZER, "init_args": {"source": source}}
    return {key: with_tokenizer(value, source) for key, value in description.items()}


def copy_codec(source: Path, folder: Path) -> str:
    """Write the network of a codec's checkpoint, without what its training needs, into an exported folder.

    Returns its name there. Raises FileNotFoundError, or ValueError if it is not a checkpoint of CodecModule.
    """
    content = read_checkpoint(source, "a checkpoint of CodecModule")
    description = content.get("hyper_parameters", {}).get("generator")
    if description is None:
        raise ValueError(
            f"Expected a checkpoint of CodecModule at `{source}` to copy, but it describes no generator: name the "
            "codec with --codec alone."
        )
    weights = {name: value.clone() for name, value in content["state_dict"].items() if name.startswith("generator.")}
    torch.save({"state_dict": weights, "hyper_parameters": {"generator": description}}, folder / CODEC)
    return CODEC
