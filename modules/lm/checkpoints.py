"""Exports checkpoints of LMModule as folders that transformers, vLLM, SGLang and llama.cpp's converter can load.

    python -m modules.lm.checkpoints export runs/demo/lm/checkpoints/last.ckpt FOLDER

writes config.json, model.safetensors (a tied head once, adapters merged), generation_config.json (sampling settings of
Llasa's model cards; stops at the end of speech), a tokenizer with the markers and <|s_0|>, <|s_1|>, ... whose chat
template has the prompt format's date, voice.json for `python run.py say --model FOLDER` (modules/lm/voice_file.py),
and README.md, a model card with an example that only needs transformers. AutoModelForCausalLM and AutoTokenizer load
the folder, and so does `pretrained: {source: FOLDER}` of LMModule.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from modules.checkpoint_files import read_checkpoint
from modules.described import instantiate
from modules.hub import is_hub_name
from modules.lm.adapters import LowRankAdapters, add_adapters, merge_adapters
from modules.lm.attention import register_packed_attention
from modules.lm.licences import licences_of_model
from modules.lm.model_card import MAX_LENGTH, model_card, sampling_in_card
from modules.lm.network import LlamaSize, build_llama
from modules.lm.text.prompt_format import LlasaChat, TextToSpeech
from modules.lm.voice_file import VoiceFile, copy_codec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFIX = "model.llama."
REPOSITORY = Path(__file__).resolve().parents[2]

log = logging.getLogger(__name__)


def export(
    checkpoint_path: Path,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    codec: str | None = None,
    with_codec: bool = False,
    training: Mapping[str, Any] | None = None,
) -> VoiceFile:
    """Write a checkpoint of LMModule as a Hugging Face folder. Returns what its voice.json says.

    Relative paths in the checkpoint start at the working folder, or else at the repository.

    Args:
        codec: Path or hub name of the codec; None takes the one that the checkpoint names, if it is there.
        with_codec: Copy the codec, a checkpoint, into the folder.
        training: Facts of its training data as plain data. None: those that the checkpoint stores.

    Raises:
        FileNotFoundError: The checkpoint, or the codec, does not exist.
        ValueError: It is a folder of shards, or not a language model, or the target contains files.
    """
    from transformers import GenerationConfig

    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"Expected `{folder}` to be empty, but it holds files.")
    checkpoint = read_model(checkpoint_path)
    prompt_format = stored_prompt_format(checkpoint)
    space = prompt_format.token_space
    if checkpoint["token_space"] != space.as_dict():
        raise ValueError(
            f"Expected a tokenizer for the `token_space` {checkpoint['token_space']}, "
            f"but got one for {space.as_dict()}."
        )
    facts = dict(training or stored_facts(checkpoint))
    if not facts:
        log.warning(
            "`%s` stores no facts of its training data: the export states no words, languages or codec. Those of its "
            "run's shards: python -m modules.speech.export CHECKPOINT FOLDER.",
            checkpoint_path,
        )
    codec = named_codec(facts.get("codec", ""), codec)
    if with_codec and not (codec and Path(codec).is_file()):
        raise FileNotFoundError(f"Expected the codec's checkpoint to copy, but got {codec}: name it with --codec.")
    tokenizer = prompt_format.tokenizer.with_codes(space)
    network = restored_network(checkpoint).to(dtype)
    if isinstance(prompt_format, LlasaChat) and isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = prompt_format.dated(tokenizer.chat_template)
    network.config.use_cache = True  # off in training only; without it, `generate` recomputes whole rows
    max_length = min(MAX_LENGTH, network.config.max_position_embeddings)
    stop = {"eos_token_id": space.speech_end, "pad_token_id": space.speech_end}
    network.generation_config = GenerationConfig(
        **sampling_in_card(prompt_format), **stop, max_length=max_length, use_cache=True
    )
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if codec:
        codec = copy_codec(Path(codec), folder) if with_codec else portable(codec)
        if Path(codec).is_absolute():
            log.warning("`%s` names its codec as %s, for this machine alone: --with_codec copies it.", folder, codec)
    if facts:
        recorded = portable(facts.get("codec", ""))
        facts["codec"] = "" if Path(recorded).is_absolute() else recorded  # `codec` says it, if it is there
    voice = VoiceFile.of_checkpoint(checkpoint, codec, facts)
    voice.write(folder)
    started_from = checkpoint["hyper_parameters"].get("pretrained")
    known: list[str] = []
    if started_from:
        source, revision = started_from["source"], started_from.get("revision")
        known = licences_of_model(str(located(source) or source), revision)
    card = model_card(prompt_format, max_length, voice.codec_fingerprint, codec or "", facts, known)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return voice


def stored_facts(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The facts of its training data that a checkpoint stores; {} if it stores none.

    A model that started from a pretrained network knows the words of that one too: its vocabulary is open.
    """
    facts = checkpoint.get("training_facts") or {}
    is_pretrained = bool(checkpoint["hyper_parameters"].get("pretrained"))
    return {**facts, "words": None, "longest_text": 0} if facts and is_pretrained else facts


def named_codec(recorded: str, given: str | None) -> str | None:
    """The codec of an export as a path or hub name: the given one, or the recorded one if it is there or on the hub.

    Raises FileNotFoundError if the given one is neither a file, a folder nor a hub name.
    """
    recorded = given or recorded
    if recorded:
        path = located(recorded)
        if path or is_hub_name(recorded):
            return str(path or recorded)
    if given:
        raise FileNotFoundError(f"Expected a file, a folder or a hub name for --codec, but got `{given}`.")
    return None


def located(name: str) -> Path | None:
    """The file or folder of a name, from the working folder, or else from the repository; None if there is neither."""
    return next((base / name for base in (Path.cwd(), REPOSITORY) if (base / name).exists()), None)


def portable(name: str) -> str:
    """A path relative to the repository or the working folder if it is below, else absolute; other names unchanged."""
    found = located(name) if name else None
    if found is None:
        return name
    path = Path(os.path.abspath(found))  # links, as of `runs`, are not followed
    base = next((base for base in (REPOSITORY, Path.cwd()) if path.is_relative_to(base)), None)
    return str(path.relative_to(base) if base else path)


def read_model(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of LMModule. Raises as read_checkpoint, and ValueError for one of anything else."""
    checkpoint = read_checkpoint(path, "a checkpoint of LMModule")
    if "token_space" not in checkpoint or "prompt_format" not in checkpoint.get("hyper_parameters", {}):
        raise ValueError(f"Expected a checkpoint of LMModule at `{path}`, but it describes none.")
    return checkpoint


def restored_network(checkpoint: dict[str, Any], merge: bool = True) -> PreTrainedModel:
    """Rebuild the network of a checkpoint with its weights, in evaluation mode; adapters merged, or as trained."""
    from transformers import AutoConfig, AutoModelForCausalLM

    parameters, space = checkpoint["hyper_parameters"], checkpoint["token_space"]
    if stored := checkpoint.get("network_config"):
        about = json.loads(stored)
        config = AutoConfig.for_model(about.pop("model_type"), **about)
        network = AutoModelForCausalLM.from_config(config, attn_implementation=register_packed_attention())
    else:  # written by a version that only supported LlamaSize
        network = build_llama(LlamaSize(**parameters["size"]), space["text_vocab_size"] + 8 + space["codebook_size"])
    adapters = parameters.get("adapters")
    if adapters:
        add_adapters(network, LowRankAdapters(**adapters))
    weights = {
        name.removeprefix(PREFIX): weight
        for name, weight in checkpoint["state_dict"].items()
        if name.startswith(PREFIX)
    }
    network.load_state_dict(weights)
    if adapters and merge:
        merge_adapters(network)
    return network.eval()


def stored_prompt_format(checkpoint: dict[str, Any]) -> TextToSpeech:
    """Instantiate the prompt format of a checkpoint. Raises ValueError if it is not a class of modules.lm."""
    return instantiate(checkpoint["hyper_parameters"]["prompt_format"], "modules.lm")


def main(
    arguments: list[str] | None = None, training_of: Callable[[Path], Mapping[str, Any] | None] = lambda path: None
) -> argparse.Namespace:
    """Run the command; `training_of` gives the facts of a checkpoint's training data, or None for the stored ones.
    Returns the options."""
    parser = argparse.ArgumentParser(prog="python -m modules.lm.checkpoints", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("export", help="a checkpoint as a Hugging Face folder")
    command.add_argument("checkpoint", type=Path)
    command.add_argument("folder", type=Path)
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    command.add_argument("--codec", help="its codec: path or hub name; by default the one that the checkpoint names")
    command.add_argument("--with_codec", action="store_true", help="copy the codec's checkpoint into the folder")
    given = parser.parse_args(arguments)
    try:
        training, dtype = training_of(given.checkpoint), getattr(torch, given.dtype)
        voice = export(given.checkpoint, given.folder, dtype, given.codec, given.with_codec, training)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    print(f"{given.folder}: written, its codec {voice.codec or 'unknown: name it with --codec'}")
    text = " ".join((voice.training.get("words") or ["Good", "morning."])[:2])
    print(f"    python run.py say {shlex.quote(text)} --model {shlex.quote(str(given.folder))}")
    return given


if __name__ == "__main__":
    main()
