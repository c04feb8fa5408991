"""A blind listening test: a self-contained HTML page of finished speech, a rubric for every class of texts, and a score
of 1 to 3 for every clip. Classes and scale are those of "text understanding" in the Llasa paper (arXiv 2502.04128).

    python -m modules.report.listening_page FOLDER FOLDER --output OUTPUT

Every folder holds the speech of one model, as callbacks/synthesis.py writes it, and gives its name. OUTPUT/listen.html
is for the listeners: it names no model, and a clip's name is a hash. OUTPUT/key.csv, which says whose clip is whose, is
for modules/report/ratings.py alone. Another seed is another order of the same clips, under the same key.
"""

import argparse
import csv
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from modules.api import Audio
from modules.atomic_file import write_whole
from modules.audio import SYNTHETIC, encoded, message_of, read_audio
from modules.provenance import digest
from modules.report.page import data_uri, page_environment

CONFIGS = Path(__file__).resolve().parents[2] / "configs/llasa"
TEXTS, RUBRICS = CONFIGS / "text_understanding.csv", CONFIGS / "text_understanding_rubrics.csv"
LANGUAGES = {"en": "English", "zh": "Chinese"}
SCORES = (3, 2, 1)
MIN_SECONDS = 0.5  # speech that ended before its first code is played as silence: an empty player looks broken
MAX_NAMED = 5  # clips left out, on the terminal
CLIP_CHARACTERS = 12
SETTINGS = ("algorithm", "sampling", "selector", "reference", "reference_text")  # of SpeechWriter's json: equal for all


@dataclass(frozen=True)
class ListeningText:
    """A line of the table of texts; `text_class` is what its rubric and its score belong to."""

    key: str
    language: str
    text_class: str
    text: str


@dataclass(frozen=True)
class KeyRow:
    """Whose clip it is: a line of key.csv."""

    clip: str
    model: str
    key: str
    language: str
    text_class: str
    seed: int
    wav: str


@dataclass(frozen=True)
class Gathered:
    """The clips of all folders with their audio, in the order of the texts, and a reason for each that is not used."""

    rows: list[KeyRow]
    audio: dict[str, Audio]
    left_out: list[str]


def read_texts(path: Path) -> dict[str, ListeningText]:
    """Texts by key. Raises FileNotFoundError, and ValueError if a column is missing or a key stands twice."""
    rows = _read_csv(path, ("key", "language", "class", "text"))
    texts = {row["key"]: ListeningText(row["key"], row["language"], row["class"], row["text"]) for row in rows}
    if len(texts) < len(rows):
        raise ValueError(f"Expected different keys, but got {len(rows)} rows of {len(texts)} keys in {path}.")
    return texts


def read_rubrics(path: Path) -> dict[tuple[str, str], dict[int, str]]:
    """What each score means, by language and class. Raises FileNotFoundError, ValueError if a column is missing."""
    rows = _read_csv(path, ("language", "class", *map(str, SCORES)))
    return {(row["language"], row["class"]): {score: row[str(score)] for score in SCORES} for row in rows}


def _read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or not set(columns) <= rows[0].keys():
        raise ValueError(f"Expected rows of the columns {', '.join(columns)}, but got {path}.")
    return rows


def gathered(folders: Sequence[Path], texts: Mapping[str, ListeningText]) -> Gathered:
    """Read finished speech. Files that cannot be read, of other texts, or of texts and seeds that a folder lacks are
    left out, so that all models are compared on the same texts, as often.

    Raises ValueError if two folders have one name or one speech, a folder holds the speech of several models, settings
    other than the model differ, or no text is spoken in all of them.
    """
    names = [folder.resolve().name for folder in folders]
    if not folders or len(set(names)) < len(names):
        raise ValueError(f"Expected folders of different names, one per model, but got {list(map(str, folders))}.")
    rows: list[KeyRow] = []
    audio: dict[str, Audio] = {}
    left_out: list[str] = []
    settings: dict[str, Any] = {}
    for name, folder in zip(names, folders, strict=True):
        models = set()
        for path in sorted(folder.glob("*.json")):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                row, sound = _clip(name, path, record, texts)
                models.add(record["model_hash"])
                own = {one: record.get(one) for one in SETTINGS}
            except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:  # soundfile's are RuntimeErrors
                left_out.append(f"{path}: {message_of(error)}")
                continue
            if differing := [one for one in SETTINGS if own[one] != settings.setdefault(one, own[one])]:
                raise ValueError(
                    f"Expected speech that differs in model, text and seed alone, but `{differing[0]}` of {path} is "
                    f"{own[differing[0]]}, where others have {settings[differing[0]]}: give each its own folder."
                )
            if row.clip in audio:
                raise ValueError(f"Expected different speech in every folder, but got {row.wav} in two of {names}.")
            rows.append(row)
            audio[row.clip] = sound
        if len(models) > 1:
            raise ValueError(f"Expected one model's speech in {folder}, but got that of {len(models)}: one each.")
    spoken_by: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        spoken_by.setdefault((row.key, row.seed), set()).add(row.model)
    for row in rows:
        if missing := sorted(set(names) - spoken_by[row.key, row.seed]):
            left_out.append(f"{row.wav} of {row.model}: {', '.join(missing)} lacks this text with seed {row.seed}")
    places = {key: place for place, key in enumerate(texts)}
    kept = [row for row in rows if len(spoken_by[row.key, row.seed]) == len(names)]
    if not kept:
        why = f" Left out: {'; '.join(left_out[:MAX_NAMED])}." if left_out else ""
        raise ValueError(f"Expected texts that are spoken in all of {list(map(str, folders))}, but got none.{why}")
    return Gathered(sorted(kept, key=lambda row: (places[row.key], row.model, row.seed)), audio, left_out)


def _clip(
    model: str, path: Path, record: Mapping[str, Any], texts: Mapping[str, ListeningText]
) -> tuple[KeyRow, Audio]:
    listed = texts.get(record["prompt_key"])
    if listed is None or listed.text != record["text"]:
        raise ValueError(f"its text is not one of the table: {record['text']!r}")
    sound = read_audio(path.parent / record["wav"])
    num_missing = round(MIN_SECONDS * sound.sample_rate) - sound.samples_T.numel()
    if num_missing > 0:
        sound = Audio(torch.nn.functional.pad(sound.samples_T, (0, num_missing)), sound.sample_rate)
    clip = digest(["listening", record["hash"]])[:CLIP_CHARACTERS]  # the file's own name begins with the hash
    about = (listed.key, listed.language, listed.text_class, int(record["seed"]), record["wav"])
    return KeyRow(clip, model, *about), sound


def listening_page(
    found: Gathered,
    texts: Mapping[str, ListeningText],
    rubrics: Mapping[tuple[str, str], Mapping[int, str]],
    seed: int,
    title: str,
) -> str:
    """Render the page: classes in the order of the texts, the clips of a class in an order that depends on the seed and
    the clips' names alone. Audio is lossless and within the page, which makes no network requests.

    Raises ValueError if a class has no rubric.
    """
    by_class: dict[tuple[str, str], list[KeyRow]] = {}
    for row in found.rows:
        by_class.setdefault((row.language, row.text_class), []).append(row)
    if missing := sorted(by_class.keys() - rubrics.keys()):
        raise ValueError(f"Expected a rubric for every language and class, but got none for {missing}.")
    for pair, rows in by_class.items():
        rows.sort(key=lambda row: row.clip)
        random.Random(f"{seed} {pair}").shuffle(rows)
    environment = page_environment()
    environment.filters |= {
        "audio_uri": lambda clip: data_uri(encoded(found.audio[clip], "flac", SYNTHETIC), "audio/flac"),
        "language": lambda name: LANGUAGES.get(name, name),
        "text": lambda row: texts[row.key].text,
    }
    return environment.get_template("listening_page.html").render(
        title=title,
        classes=[(*pair, rubrics[pair], rows) for pair, rows in by_class.items()],
        num_clips=len(found.rows),
        page=digest(sorted(row.clip for row in found.rows))[:CLIP_CHARACTERS],
        scores=SCORES,
    )


def key_table(rows: Sequence[KeyRow]) -> str:
    """key.csv: whose clip is whose."""
    stream = StringIO()
    writer = csv.DictWriter(stream, list(KeyRow.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, rows))
    return stream.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m modules.report.listening_page", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("folders", type=Path, nargs="+", help="finished speech, one folder per model")
    parser.add_argument("--output", type=Path, required=True, help="folder of listen.html and key.csv")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--texts", type=Path, default=TEXTS, help="CSV: key, language, class, text")
    parser.add_argument("--rubrics", type=Path, default=RUBRICS, help="CSV: language, class, 3, 2, 1")
    parser.add_argument("--title", default="Listening test", help="of the page; the listeners read it")
    given = parser.parse_args(arguments)
    try:
        texts = read_texts(given.texts)
        found = gathered(given.folders, texts)
        page = listening_page(found, texts, read_rubrics(given.rubrics), given.seed, given.title)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    write_whole(given.output / "listen.html", page)
    write_whole(given.output / "key.csv", key_table(found.rows))
    counts = ", ".join(f"{number} of {name}" for name, number in Counter(row.model for row in found.rows).items())
    print(f"{given.output / 'listen.html'}: {len(found.rows)} clips ({counts}), {len(page) / 1e6:.1f} MB")
    print(f"{given.output / 'key.csv'}: not for the listeners")
    if found.left_out:
        print(f"{len(found.left_out)} left out: {'; '.join(found.left_out[:MAX_NAMED])}")


if __name__ == "__main__":
    main()
