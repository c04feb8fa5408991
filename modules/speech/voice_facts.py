"""VoiceFacts: what can be said about a voice without loading its weights."""

import json
import re
import struct
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from datamodules.shards.training_facts import TrainingFacts, facts_of_model
from modules.api import SamplingSettings
from modules.checkpoint_files import read_checkpoint
from modules.lm.checkpoints import PREFIX, read_model
from modules.lm.licences import LLASA_CODES, card_metadata, listed
from modules.lm.model_card import DRAWING, MAX_LENGTH
from modules.lm.model_card import SAMPLING as CARD_SAMPLING
from modules.lm.text.huggingface_tokenizer import CODE_PREFIX
from modules.lm.voice_file import NAME, VoiceFile, sampling_of

Kind = Literal["run", "export", "released", "shipped"]
RELEASED_CODEC = "HKUSTAudio/xcodec2"
CODE = re.compile(re.escape(CODE_PREFIX.encode()) + rb"(\d+)\|>")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json")


@dataclass(frozen=True)
class VoiceFacts:
    """Facts of a voice; empty where nobody states them.

    `name` is what `--model` takes. `words` are all words of its training texts if they are few, lower-case: it speaks
    no others. `spoken_prompts`: it was trained with voice prompts, so that it can take on a voice. `codec` is a path or
    a hub name, "" if nothing names it. `max_tokens` is the longest sequence, text and speech, that it was trained for,
    `longest_text` the longest text in bytes (0: unknown).
    `sampling` are its default settings. `num_codes`: codes of its vocabulary. `date`: when it was trained or written.
    `notes` are sentences shown to the user. `problem`: why it cannot speak; all else is then empty.
    """

    name: str
    kind: Kind
    languages: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()
    num_parameters: int = 0
    num_bytes: int = 0
    words: tuple[str, ...] | None = None
    spoken_prompts: bool = False
    codec: str = ""
    max_tokens: int = MAX_LENGTH
    longest_text: int = 0
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    num_codes: int = 0
    codec_fingerprint: str = ""
    date: str = ""
    notes: tuple[str, ...] = ()
    problem: str = ""


def is_language_model(path: Path) -> bool:
    """Whether a file is a checkpoint of LMModule. Raises as read_checkpoint if it cannot be read."""
    return "token_space" in read_checkpoint(path, "a checkpoint of LMModule")


def facts_of_checkpoint(path: Path, name: str, root: Path) -> VoiceFacts:
    """Facts of a checkpoint of LMModule. Those that it does not store are read from the token shards that its stage's
    marker names, relative to `root`.

    Raises FileNotFoundError, or ValueError if it is no checkpoint of LMModule, or was not trained to speak.
    """
    checkpoint = read_model(path)
    training = facts_of_model(checkpoint, path, root) or TrainingFacts()
    num_parameters, num_bytes = _size(checkpoint["state_dict"])
    facts = VoiceFacts(
        name,
        "run",
        num_parameters=num_parameters,
        num_bytes=num_bytes,
        max_tokens=_max_positions(checkpoint),
        sampling=SamplingSettings(**sampling_of(checkpoint)),
        num_codes=checkpoint["token_space"]["codebook_size"],
        codec_fingerprint=checkpoint.get("codec_fingerprint", ""),
        date=_day(path),
    )
    return with_training(facts, training)


def with_training(facts: VoiceFacts, training: TrainingFacts) -> VoiceFacts:
    """Raises ValueError if the training was not for speaking."""
    if not training.speaks:
        raise ValueError(
            f"Expected a model that was trained to speak, but `{facts.name}` was trained on recognition or text alone."
        )
    row_length = training.row_length or MAX_LENGTH
    return replace(
        facts,
        languages=training.languages,
        licenses=training.licenses,
        speakers=training.speakers,
        words=training.words,
        spoken_prompts=training.spoken_prompts,
        codec=facts.codec or training.codec,
        max_tokens=min(facts.max_tokens, row_length),
        longest_text=training.longest_text,
    )


def facts_of_folder(folder: Path, name: str, kind: Kind | None = None) -> VoiceFacts:
    """Facts of a Hugging Face folder: an export of ours, or one in the shape of the released Llasa models.

    Raises FileNotFoundError if its files are missing, ValueError if it has no codes, was not trained to speak, or is
    damaged.
    """
    config, voice = _json(folder / "config.json"), VoiceFile.read(folder)
    num_codes = num_codes_in(folder)
    if not num_codes:
        raise ValueError(
            f"Expected a language model with the codes {CODE_PREFIX}0|>, ... in `{name}`, but its tokenizer has none: "
            "it is a text model."
        )
    card = card_metadata(folder)
    is_released = voice is None and num_codes == LLASA_CODES
    num_parameters, num_bytes = _size_of_weights(folder)
    facts = VoiceFacts(
        name,
        kind or ("released" if is_released else "export"),
        languages=listed(card.get("language")),
        licenses=listed(card.get("license")),
        num_parameters=num_parameters,
        num_bytes=num_bytes,
        spoken_prompts=is_released,
        codec=RELEASED_CODEC if is_released else "",
        max_tokens=min(MAX_LENGTH, config.get("max_position_embeddings", MAX_LENGTH)),
        sampling=_sampling(folder, is_released),
        num_codes=num_codes,
        date=_day(folder / "config.json"),
    )
    if is_released:
        note = f"a released Llasa, by its {LLASA_CODES:,} codes and the lack of a {NAME}: its codec is {RELEASED_CODEC}"
        return replace(facts, notes=(note,))
    if voice is None:
        return facts
    facts = replace(
        facts,
        codec=voice.codec or "",
        codec_fingerprint=voice.codec_fingerprint,
        sampling=voice.sampling_settings,
    )
    licenses = tuple(one for one in facts.licenses if one != "other")  # one that has no name on the hub
    facts = with_training(facts, TrainingFacts.of_plain(voice.training))
    return replace(facts, licenses=licenses or facts.licenses)


def num_codes_in(folder: Path) -> int:
    """Number of codes in a tokenizer's vocabulary, from the bytes of its files."""
    found = {
        int(number)
        for name in TOKENIZER_FILES
        if (folder / name).is_file()
        for number in CODE.findall((folder / name).read_bytes())
    }
    return len(found)


def has_chat_template(folder: Path) -> bool:
    path = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").is_file() or (path.is_file() and bool(_json(path).get("chat_template")))


def _max_positions(checkpoint: dict[str, Any]) -> int:
    if stored := checkpoint.get("network_config"):
        return int(json.loads(stored)["max_position_embeddings"])
    return int(checkpoint["hyper_parameters"]["size"]["max_positions"])


def _size(tensors: dict[str, Tensor]) -> tuple[int, int]:
    """Parameters and bytes of the network's tensors; those that share memory (a tied head) count once."""
    own = {value.data_ptr(): value for name, value in tensors.items() if name.startswith(PREFIX)}
    return sum(one.numel() for one in own.values()), sum(one.numel() * one.element_size() for one in own.values())


def _size_of_weights(folder: Path) -> tuple[int, int]:
    """Parameters and bytes of a folder's weights, from the headers of its files."""
    paths = sorted(folder.glob("model*.safetensors"))
    if paths:
        headers = [_header(path) for path in paths]
        tensors = [about for header in headers for name, about in header.items() if name != "__metadata__"]
        num_parameters = sum(_product(about["shape"]) for about in tensors)
        return num_parameters, sum(about["data_offsets"][1] - about["data_offsets"][0] for about in tensors)
    paths = sorted(folder.glob("pytorch_model*.bin"))
    if not paths:
        raise FileNotFoundError(f"Expected model.safetensors or pytorch_model.bin in `{folder}`, but there is neither.")
    sizes = [_size({PREFIX + name: one for name, one in read_checkpoint(path, "weights").items()}) for path in paths]
    return sum(size[0] for size in sizes), sum(size[1] for size in sizes)


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        try:
            (length,) = struct.unpack("<Q", stream.read(8))
            return json.loads(stream.read(min(length, 100 << 20)))
        except (struct.error, ValueError) as error:
            raise ValueError(f"Expected weights in `{path}`, but it is damaged: copy it again.") from error


def _product(shape: list[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _sampling(folder: Path, is_released: bool) -> SamplingSettings:
    """Those of the folder; for a released Llasa, those of its card."""
    path = folder / "generation_config.json"
    if is_released or not path.is_file():
        return SamplingSettings(**{name: value for name, value in CARD_SAMPLING.items() if name in DRAWING})
    content = _json(path)
    return SamplingSettings(**{name: content[name] for name in DRAWING if content.get(name)})


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"Expected {path.name} in `{path.parent}`, but there is none.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected JSON in `{path}`, but it is damaged: copy it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected an object in `{path}`, but got {type(content).__name__}.")
    return content


def _day(path: Path) -> str:
    return date.fromtimestamp(path.stat().st_mtime).isoformat()
