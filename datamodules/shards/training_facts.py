"""Facts of token shards that a model trained on them needs to speak: its checkpoint stores them.

They are plain data, a pure function of the files, and therefore equal on every rank.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.shards.samples import Sample, name_in
from datamodules.shards.shards import ShardIndex, ShardReader
from modules.moved_names import current_name

MAX_WORDS = 200  # more distinct words than that, and a vocabulary counts as open
MAX_SPEAKERS = 50
MAX_READ = 2000  # samples whose language and licence are read, evenly spread over a folder
MAX_READ_WORDS = 200_000  # a folder of more samples counts as open: it would take minutes to read
SPOKEN = {"datamodules.tasks.TextToSpeech": False, "datamodules.tasks.VoiceCloning": True}  # with a spoken prompt?


@dataclass(frozen=True)
class TrainingFacts:
    """What the training data of a speaking model states.

    `codec` is the path or hub name of the codec that encoded the shards, as its run was given it; "" if unknown.
    `license_hours` are the hours of speech by licence ("": not stated), an estimate where the index has no licences,
    and empty if unknown.
    `speakers` are empty if there are more than MAX_SPEAKERS. `words` are all words of the texts, lower-case and sorted,
    or None if there are more than MAX_WORDS. `spoken_prompts`: it was trained with voice prompts. `row_length`: the
    longest document in tokens, `longest_text` the longest text in bytes; 0 if unknown. `speaks`: some of the data was
    for speaking, not all for recognition or text.
    """

    codec: str = ""
    languages: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()
    words: tuple[str, ...] | None = None
    spoken_prompts: bool = False
    row_length: int = 0
    longest_text: int = 0
    speaks: bool = True
    license_hours: Mapping[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON has it: lists in place of tuples."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def of_plain(cls, stored: Mapping[str, Any]) -> "TrainingFacts":
        """The inverse of `plain`. Keys of a later version are left out."""
        known = {one.name: stored[one.name] for one in fields(cls) if one.name in stored}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in known.items()})


def facts_of_shards(folders: Sequence[Path], spoken_prompts: bool = False, row_length: int = 0) -> TrainingFacts:
    """Facts of the token shards in `folders`, each one split; without any, those of a model that does not speak.
    Damaged samples are passed over.

    Raises FileNotFoundError or ValueError if a folder has no token shards.
    """
    if not folders:
        return TrainingFacts(row_length=row_length, speaks=False)
    indices = [ShardIndex.load(folder, "tokens") for folder in dict.fromkeys(map(Path, folders))]
    named = {str(name) for index in indices if index.speakers is not None for _, name in index.speakers} - {""}
    languages: set[str] = set()
    licenses: set[str] = set()
    license_hours: Counter[str] = Counter()
    for index in indices:
        read = dict(_readable(index, _spread_rows(index)))
        languages.update(name_in(about, "language") for about in read.values())
        licenses.update(name_in(about, "license") for about in read.values())
        license_hours.update(hours_by_license(index, read))
    return TrainingFacts(
        codec=next((path for index in indices if (path := codec_of_shards(index.folder))), ""),
        languages=tuple(sorted(languages - {""})),
        licenses=tuple(sorted((licenses | set(license_hours)) - {""})),
        speakers=tuple(sorted(named)) if len(named) <= MAX_SPEAKERS else (),
        words=_closed_vocabulary(indices),
        spoken_prompts=spoken_prompts,
        row_length=row_length,
        longest_text=max(int(index.text_lengths.max()) for index in indices),
        license_hours=dict(sorted(license_hours.items())),
    )


def hours_by_license(index: ShardIndex, read: Mapping[int, Mapping[str, Any]] | None = None) -> dict[str, float]:
    """Hours of speech of token shards by licence, "" where none is stated; {} if their header states no frame rate.

    Where the index has no licences, those in the jsons of some samples, scaled to the hours of all; `read` are these
    jsons by row, if they have been read already.
    """
    frame_rate = index.header.get("frame_rate")
    if not frame_rate:
        return {}
    hours_N = np.asarray(index.lengths) / frame_rate / 3600
    found: Counter[str] = Counter()
    if index.licenses is not None and index.license_of is not None:
        for name, hours in zip(
            index.licenses, np.bincount(index.license_of, hours_N, len(index.licenses)), strict=True
        ):
            found[str(name)] += float(hours)
    else:
        for row, about in (read or dict(_readable(index, _spread_rows(index)))).items():
            found[name_in(about, "license")] += float(hours_N[row])
    scale = float(hours_N.sum()) / (found.total() or 1)
    return {name: round(scale * hours, 6) for name, hours in sorted(found.items()) if hours}


def _spread_rows(index: ShardIndex) -> np.ndarray:
    """At most MAX_READ rows, evenly spread."""
    return np.unique(np.linspace(0, len(index) - 1, min(len(index), MAX_READ)).astype(int))


def words_of(text: str) -> list[str]:
    """The words of a text, lower-case, without punctuation but the apostrophe inside a word."""
    return re.findall(r"\w+(?:['\u2019]\w+)*", text.lower())


def facts_of_model(checkpoint: Mapping[str, Any], path: Path, root: Path) -> TrainingFacts | None:
    """The facts that a checkpoint of LMModule stores, else those of the shards that its stage's marker names; None if
    there are neither. Relative folders start at `root`.

    A model that started from a pretrained network knows the words of that one too: its vocabulary is open.
    """
    stored = checkpoint.get("training_facts")
    facts = TrainingFacts.of_plain(stored) if stored else facts_of_config(_data_of_stage(path), root)
    if facts is not None and checkpoint["hyper_parameters"].get("pretrained"):
        return replace(facts, words=None, longest_text=0)
    return facts


def speaks(checkpoint: Mapping[str, Any], path: Path) -> bool:
    """Whether a checkpoint of LMModule was trained to speak, as far as it or its stage's marker says. No shards are
    read."""
    stored = checkpoint.get("training_facts")
    if stored:
        return TrainingFacts.of_plain(stored).speaks
    tasks = _tasks_in(_data_of_stage(path))
    return not tasks or any(name in SPOKEN for name, _ in tasks)


def facts_of_config(data: Mapping[str, Any], root: Path) -> TrainingFacts | None:
    """The facts of a run's `data`, as its config or its stage's marker has it; None if no data module for tokens made
    it, or its shards are gone. Relative folders start at `root`."""
    tasks, arguments = _tasks_in(data), data.get("init_args") or {}
    if not tasks:
        return None
    split = arguments.get("train_split", "train")
    folders = [root / (folder or arguments["folder"]) / split for name, folder in tasks if name in SPOKEN]
    try:
        return facts_of_shards(folders, any(SPOKEN.get(name) for name, _ in tasks), arguments.get("row_length", 1024))
    except (OSError, ValueError):
        return None


def _tasks_in(data: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Class and folder of each task of a run's `data`; [] if no data module for tokens made it."""
    arguments = data.get("init_args") or {}
    if current_name(data.get("class_path", "")) != "datamodules.tokens.TokenDataModule" or "folder" not in arguments:
        return []
    return [
        (current_name(task["class_path"]), (task.get("init_args") or {}).get("folder"))
        for task in arguments.get("tasks") or [{"class_path": "datamodules.tasks.TextToSpeech"}]
    ]


def _data_of_stage(checkpoint: Path) -> dict[str, Any]:
    """`data` of the config in the marker of the stage that trained a checkpoint; {} if there is none to read."""
    try:
        config = _config_in(checkpoint.parent.parent / "stage_fit.json")
    except (OSError, ValueError):
        return {}
    data = config.get("data") if isinstance(config, dict) else None
    return data if isinstance(data, dict) else {}


def codec_of_shards(folder: Path) -> str:
    """Path or hub name of the codec that encoded the split in `folder`, from the marker or the config that its run left
    beside the splits; "" if there is neither, or it names none."""
    for name in ("stage_predict.json", "config.yaml"):
        path = folder.parent / name
        if path.is_file():
            try:
                config = _config_in(path)
            except (OSError, ValueError):
                continue
            if isinstance(config, dict) and (path_or_name := _codec_in(config)):
                return path_or_name
    return ""


def _codec_in(config: Mapping[str, Any]) -> str:
    """The codec of a run that wrote token shards: the checkpoint, or the `codec` of its model."""
    if config.get("ckpt_path"):
        return str(config["ckpt_path"])
    try:
        return str(config["model"]["init_args"]["codec"]["init_args"]["path"])
    except (KeyError, TypeError):
        return ""


def _config_in(path: Path) -> Any:
    """The config of a marker or of a yaml. Raises ValueError if it cannot be read."""
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        return content.get("config") if isinstance(content, dict) else None
    import yaml

    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _closed_vocabulary(indices: Sequence[ShardIndex]) -> tuple[str, ...] | None:
    """All words of the texts, or None as soon as there are too many."""
    if sum(map(len, indices)) > MAX_READ_WORDS:
        return None
    words: set[str] = set()
    for index in indices:
        for _, about in _readable(index, np.arange(len(index))):
            words.update(words_of(str(about.get("text") or "")))
            if len(words) > MAX_WORDS:
                return None
    return tuple(sorted(words)) or None


def _readable(index: ShardIndex, rows: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row and json of each sample that is not damaged."""
    reader = ShardReader(index)
    for row in rows.tolist():
        try:
            yield row, Sample.read(reader, row, "text").about  # its codes are not needed
        except (OSError, ValueError):
            continue  # counted by the reader of training
