"""Finds a voice by a short name, with everything that is needed to speak with it.

A name is a run's folder, a checkpoint, an exported folder, a folder in the shape of the released Llasa models, or the
name of such a one on the hub. Folders may be named from the root, the working folder, `runs` or `voices`.
"""

import contextlib
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from datamodules.shards.training_facts import speaks
from modules.api import PromptFormat, Sampler, SamplerEngine, SamplingSettings
from modules.checkpoint_files import SHARDS_METADATA, read_checkpoint
from modules.codec.formats.checkpoints import CodecCheckpoint
from modules.hub import download, is_hub_name
from modules.lm.sampling.sampler import sampler_of
from modules.lm.saved_model import SavedModel
from modules.lm.text.huggingface_tokenizer import HuggingFaceTokenizer
from modules.lm.text.prompt_format import LlasaChat, TextToSpeech
from modules.lm.voice_file import NAME as VOICE_FILE
from modules.lm.voice_file import VoiceFile
from modules.speech.voice_facts import (
    VoiceFacts,
    facts_of_checkpoint,
    facts_of_folder,
    has_chat_template,
    is_language_model,
    num_codes_in,
)

HUB_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
LAST = Path("checkpoints/last.ckpt")
MAX_MESSAGE = 400  # characters of another library's message: the hub's client writes paragraphs
MAX_DEPTH = 3  # folders between `runs` and a run's own
HOW_TO_GET_ONE = (
    "`make demo` trains one that speaks digits in half an hour, `make voice` one that reads any English sentence in "
    "about three hours, `make voice FOLDER=...` one of your recordings; "
    "`--model HKUSTAudio/Llasa-1B` takes a released one."
)


class SpeakingModel:
    """A voice: a language model and its codec, each loaded on first use and once. A modules.search.protocol.SpeechModel
    from `load` on.

    Args:
        facts: Its facts. `notes` says what was chosen, to be shown to the user.
        source: Checkpoint of LMModule, or a Hugging Face folder.
        prompt_format: Of a Hugging Face folder. A checkpoint contains its own.
        root: Folder that relative paths start at, and whose `runs` are searched for a codec that nothing names.
        codec: Path or hub name that the caller wants in place of the recorded one.
        device: Where the codec runs, as of CodecCheckpoint.

    `num_loads` and `num_codec_loads` count how often weights of a model, and of any codec, were loaded.
    """

    def __init__(
        self,
        facts: VoiceFacts,
        source: Path,
        prompt_format: PromptFormat | None,
        root: Path,
        codec: str | None = None,
        device: str = "auto",
    ) -> None:
        self.facts, self.source, self.root, self.device = facts, source, root, device
        self.given_codec = codec
        self.saved = SavedModel(facts.name, str(source), prompt_format)
        self.num_loads = self.num_codec_loads = 0

    @property
    def name(self) -> str:
        return self.facts.name

    @cached_property
    def prompt_format(self) -> PromptFormat:
        return self.saved.prompt_format

    @property
    def codec_fingerprint(self) -> str:
        """Fingerprint of the codec whose codes it was trained on; "" if unknown."""
        return self.facts.codec_fingerprint

    @cached_property
    def codec(self) -> CodecCheckpoint:
        """Its codec, checked to be the one that it was trained on: by fingerprint, or where that is unknown by the
        number of codes. `facts.codec` names it from here on.

        Raises FileNotFoundError if it is not there, ValueError if it is another one.
        """
        path, codec, num_loads = find_codec(self.facts, self.source, self.root, self.given_codec, self.device)
        self.num_codec_loads += num_loads
        self.facts = replace(self.facts, codec=path)
        return codec

    def load(self, device: torch.device, dtype: torch.dtype) -> None:
        """Load the weights; once, whatever is asked for later."""
        if self.num_loads == 0:
            self.saved.load(device, dtype)
            self.num_loads += 1

    @cached_property
    def model_hash(self) -> str:
        return self.saved.model_hash

    def sampler(
        self, settings: SamplingSettings, engine: SamplerEngine | None = None, max_batch_rows: int = 64
    ) -> Sampler:
        """A sampler of the loaded weights."""
        return sampler_of(self.saved.loaded, self.prompt_format, settings, engine, max_batch_rows)


# ---------------------------------------------------------------------------------------------------------- find one


def find_model(name: str | None, root: Path, codec: str | None = None, device: str = "auto") -> SpeakingModel:
    """The voice of a name; None: the newest one under `runs`, or else under `voices`. `facts.name` says which.

    Args:
        root: Folder with `runs` and `voices`.
        codec: Path or hub name of its codec, in place of the recorded one.
        device: Where the codec runs.

    Raises:
        FileNotFoundError: There is nothing of that name, here or on the hub.
        ValueError: What is there is damaged, is no voice, or nothing names its codec.
    """
    root = Path(root).absolute()
    if name is None:
        return _newest_model(root, codec, device)
    path = next((base / name for base in _bases(root) if (base / name).exists()), None)
    if path is None:
        return _of_folder(_from_hub(name, root), name, root, codec, device)
    if path.is_dir() and not (path / SHARDS_METADATA).is_file():
        found = sorted(_checkpoints(path, 2), key=_written, reverse=True)
        if not found and (path / "config.json").is_file():
            return _of_folder(path, short_name(path, root), root, codec, device)
        usable = [one for one in found if _is_voice(one)]
        if not found:
            raise ValueError(
                f"Expected a voice in `{name}` (a checkpoint of LMModule at {LAST}, or an exported folder), but it "
                "holds none."
            )
        if not usable:
            return _of_checkpoint(found[0], root, codec, device)  # raises with its reason
        model = _of_checkpoint(usable[0], root, codec, device)
        if len(usable) > 1:
            others = ", ".join(short_name(one, root) for one in usable[1:4])
            model.facts = replace(model.facts, notes=(f"the newest of {len(usable)} in {name}; others: {others}",))
        return model
    return _of_checkpoint(path, root, codec, device)


def _newest_model(root: Path, codec: str | None, device: str) -> SpeakingModel:
    for path in sorted(_checkpoints(root / "runs", MAX_DEPTH), key=_written, reverse=True):
        try:
            if _is_voice(path):
                return _of_checkpoint(path, root, codec, device)
        except (ValueError, OSError):
            continue  # `voices` lists it with the reason
    for folder in sorted(_exports(root / "voices", 1)):
        with contextlib.suppress(ValueError, OSError):  # as above
            return _of_folder(folder, short_name(folder, root), root, codec, device)
    raise FileNotFoundError(f"Expected a trained voice under `runs`, but there is none. {HOW_TO_GET_ONE}")


def _of_checkpoint(path: Path, root: Path, codec: str | None, device: str) -> SpeakingModel:
    return SpeakingModel(facts_of_checkpoint(path, short_name(path, root), root), path, None, root, codec, device)


def _of_folder(folder: Path, name: str, root: Path, codec: str | None, device: str) -> SpeakingModel:
    is_shipped = folder.is_relative_to(root / "voices")
    facts, voice = facts_of_folder(folder, name, "shipped" if is_shipped else None), VoiceFile.read(folder)
    if voice is not None:
        prompt_format = voice.prompt_format_in(folder)
    else:
        form = LlasaChat if has_chat_template(folder) else TextToSpeech
        prompt_format = form(HuggingFaceTokenizer(str(folder)), facts.num_codes)
    if not facts.codec and not facts.codec_fingerprint and codec is None:
        raise ValueError(
            f"Expected `{name}` to name its codec, but it has {facts.num_codes:,} codes and no {VOICE_FILE}. Name it: "
            "--codec PATH_OR_HUB_NAME."
        )
    if codec is not None:  # what the notes say of the codec is then not so
        facts = replace(facts, notes=())
    return SpeakingModel(facts, folder, prompt_format, root, codec, device)


def _from_hub(name: str, root: Path) -> Path:
    """The folder of a repository in the hub's cache, downloaded if needed, with its card if that is to be had."""
    if not is_hub_name(name) or name.startswith(("runs/", "voices/")):
        there = ", ".join(facts.name for facts in list_models(root) if not facts.problem) or "none"
        raise FileNotFoundError(
            f"Expected a run's folder, an exported folder, a checkpoint or a hub name, but got `{name}`, where there "
            f"is nothing. Here: {there}. {HOW_TO_GET_ONE}"
        )
    try:
        folder = download(name, HUB_WEIGHTS)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no folder `{name}`. {_shortened(error)}") from error
    from huggingface_hub import hf_hub_download

    with contextlib.suppress(OSError, ValueError):  # offline or absent: its languages and licence stay unknown
        hf_hub_download(name, "README.md", revision=folder.name)
    return folder


# --------------------------------------------------------------------------------------------------------- its codec


def find_codec(
    facts: VoiceFacts, source: Path, root: Path, given: str | None = None, device: str = "auto"
) -> tuple[str, CodecCheckpoint, int]:
    """Name and codec of a voice, and how many were loaded to find it: the given one, else the recorded one, else one
    under `runs` with its fingerprint.

    Raises FileNotFoundError or ValueError, naming `--codec`, if it is missing or another one.
    """
    tried: list[CodecCheckpoint] = []
    fault: FileNotFoundError | ValueError | None = None
    if name := given or facts.codec:
        tried.append(CodecCheckpoint(_local(name, root), device))
        try:
            _check(tried[-1], name, facts)
            return name, tried[-1], _num_loaded(tried)
        except (FileNotFoundError, ValueError) as error:
            fault = error
    for path in _codecs(source, root) if facts.codec_fingerprint and not given else ():
        tried.append(CodecCheckpoint(path, device))
        with contextlib.suppress(ValueError, OSError):
            _check(tried[-1], str(path), facts)
            return short_path(path, root), tried[-1], _num_loaded(tried)
    if given and fault:
        raise fault
    remedy = " Name the codec of the voice: --codec PATH_OR_HUB_NAME."
    if facts.codec_fingerprint:
        remedy = f" No codec under `runs` has the fingerprint {facts.codec_fingerprint}.{remedy}"
    if fault:
        raise type(fault)(f"{fault}{remedy}") from fault
    raise ValueError(f"Expected {facts.name} to name its codec, but it names none.{remedy}")


def _check(codec: CodecCheckpoint, name: str, facts: VoiceFacts) -> None:
    """Load a codec. Raises FileNotFoundError if there is none, ValueError if it is damaged, or not that of a voice."""
    expected = f"Expected `{name}` to be the codec of {facts.name}, but"
    if not codec.path.exists() and not is_hub_name(name):
        raise FileNotFoundError(f"{expected} there is nothing.")
    try:
        num_codes = codec.facts.codebook_size
    except FileNotFoundError as error:
        if codec.path.exists():  # a folder without weights: the error says so
            raise FileNotFoundError(_shortened(error)) from error
        asked = error.__cause__ or error
        reason = _shortened(asked.__cause__ or asked, 200)  # of the hub's client
        raise FileNotFoundError(f"{expected} it is neither here nor on the hub: {reason}") from error
    except (ValueError, OSError) as error:
        raise ValueError(_shortened(error)) from error  # damaged, or no codec: a sentence that names the file
    if num_codes != facts.num_codes:
        raise ValueError(f"{expected} it has {num_codes:,} codes, not {facts.num_codes:,}.")
    if facts.codec_fingerprint and codec.fingerprint != facts.codec_fingerprint:
        raise ValueError(
            f"{expected} it has the fingerprint {codec.fingerprint}, not {facts.codec_fingerprint}: its encoder is "
            "another."
        )


def _num_loaded(codecs: Sequence[CodecCheckpoint]) -> int:
    return sum("generator" in vars(codec) for codec in codecs)  # cached once it is loaded


def _codecs(source: Path, root: Path) -> Iterator[Path]:
    """Checkpoints of codecs under `runs`, those of the same run first, then the newest first."""
    runs = root / "runs"
    own = runs / source.relative_to(runs).parts[0] if source.is_relative_to(runs) else None
    found = sorted(_checkpoints(runs, MAX_DEPTH), key=_written, reverse=True)
    for path in sorted(found, key=lambda path: own is None or not path.is_relative_to(own)):
        try:
            if "generator" in read_checkpoint(path, "a codec checkpoint").get("hyper_parameters", {}):
                yield path
        except (ValueError, OSError):
            continue


def _local(name: str, root: Path) -> Path:
    """The path of a codec: from the root or the working folder, or a hub name as it is."""
    return next((base / name for base in (root, Path.cwd()) if (base / name).exists()), Path(name))


# -------------------------------------------------------------------------------------------------------- what there is


def list_models(root: Path) -> list[VoiceFacts]:
    """Everything here that can speak: runs, the newest first, then exports, shipped voices, and the hub's cache.

    Weights are not loaded, and no codec is checked. What is damaged is listed with its `problem`.
    """
    root = Path(root).absolute()
    listed = []
    for path in sorted(_checkpoints(root / "runs", MAX_DEPTH), key=_written, reverse=True):
        name = short_name(path, root)
        try:
            if is_language_model(path):
                listed.append(facts_of_checkpoint(path, name, root))
        except Exception as error:  # noqa: BLE001, whatever a damaged file raises: the others are listed
            listed.append(VoiceFacts(name, "run", problem=_shortened(error)))
    folders = [(folder, short_name(folder, root), None) for folder in sorted(_exports(root / "runs", MAX_DEPTH))]
    folders += [(folder, short_name(folder, root), "shipped") for folder in sorted(_exports(root / "voices", 1))]
    folders += [(folder, name, None) for name, folder in _cached()]
    for folder, name, kind in folders:
        try:
            listed.append(facts_of_folder(folder, name, kind))
        except Exception as error:  # noqa: BLE001, as above
            listed.append(VoiceFacts(name, kind or "export", problem=_shortened(error)))
    return listed


def _cached() -> Iterator[tuple[str, Path]]:
    """Name and folder of each language model for speech in the hub's cache."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repositories = sorted(scan_cache_dir().repos, key=lambda one: one.repo_id)
    except (CacheNotFound, OSError):
        return
    for repository in repositories:
        if repository.repo_type != "model" or not repository.revisions:
            continue
        folder = max(repository.revisions, key=lambda one: one.last_modified).snapshot_path
        if not (folder / "config.json").is_file() or not any(folder.glob(one) for one in HUB_WEIGHTS):
            continue
        if "llasa" in repository.repo_id.lower() or num_codes_in(folder):
            yield repository.repo_id, folder


def short_name(path: Path, root: Path) -> str:
    """The shortest name that leads to a checkpoint or a folder: that of its run, if it is the only voice there."""
    if not path.name.endswith(".ckpt"):
        return short_path(path, root)
    if path.parts[-2:] != LAST.parts:
        return short_path(path, root)
    run = path.parent.parent
    runs = root / "runs"
    if run.is_relative_to(runs) and run != runs:
        top = runs / run.relative_to(runs).parts[0]
        if [one for one in _checkpoints(top, 2) if _is_voice(one)] in ([path], []):
            return short_path(top, root)
    return short_path(run, root)


def short_path(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _is_voice(path: Path) -> bool:
    try:
        checkpoint = read_checkpoint(path, "a checkpoint of LMModule")
        return "token_space" in checkpoint and speaks(checkpoint, path)
    except (ValueError, OSError):
        return False


def _bases(root: Path) -> tuple[Path, ...]:
    return root, Path.cwd(), root / "runs", root / "voices"


def _checkpoints(folder: Path, depth: int) -> Iterator[Path]:
    """Checkpoints of runs at most `depth` folders below; those that a stage moved aside are left out."""
    yield from _found(folder, depth, str(LAST))


def _exports(folder: Path, depth: int) -> Iterator[Path]:
    yield from (path.parent for path in _found(folder, depth, VOICE_FILE))


def _found(folder: Path, depth: int, name: str) -> Iterator[Path]:
    for level in range(depth + 1):
        for path in folder.glob("*/" * level + name):
            if not any(".superseded-" in part for part in path.relative_to(folder).parts):
                yield path


def _written(path: Path) -> float:
    return path.stat().st_mtime


def _shortened(error: BaseException, length: int = MAX_MESSAGE) -> str:
    """What an error says, on one line."""
    return textwrap.shorten(str(error), length, placeholder=" ...") or type(error).__name__
