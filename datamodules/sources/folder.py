"""FolderSource: users' own recordings, in LJSpeech's layout or as pairs of an audio file and a text file."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from datamodules.sources.listed import (
    BAD_CHARACTER,
    HoldOut,
    Item,
    ListedSource,
    check_name,
    files_below,
    folder_name,
    read_lines,
)
from datamodules.sources.source import Recording, Skipped

FROM_FOLDER = "from_folder"
MISREAD_SHARE = 0.1  # share of lines; above this, third columns that look like a speaker or number are no accident

Column = Literal["id", "text", "normalised_text", "speaker", "language", "duration", "ignored"]


def unique_keys(names: Sequence[str], prefix: str = "") -> list[str]:
    """Make a key for every name: `prefix` and the name, with anything but ASCII letters, digits or `-` replaced by `_`.

    Names that would share a key (including those that differ by case only, which some file systems do not distinguish)
    all get a hash of the name at the end, so that a key does not depend on the order of the names.
    Raises ValueError if a name occurs twice.
    """
    if len(set(names)) != len(names):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"Expected `names` to be distinct, but got {twice[:5]} more than once.")
    plain = [prefix + re.sub(r"[^A-Za-z0-9-]", "_", name) for name in names]
    num_uses = Counter(key.casefold() for key in plain)
    return [
        key
        if num_uses[key.casefold()] == 1
        else f"{key}_{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:8]}"
        for name, key in zip(names, plain, strict=True)
    ]


def misread_third_column(rows: Sequence[Sequence[str]]) -> str:
    """Return why the third of the columns `id|text|...` is not a normalised text, with examples; "" if it may be one.

    A speaker's name occurs with many texts. A normalised text that repeats occurs with one text, give or take an
    abbreviation.
    """

    def words(text: str) -> str:
        return "".join(re.findall(r"\w", text)).casefold()

    thirds = [row for row in rows if len(row) > 2 and row[2]]
    others = [row for row in thirds if words(row[1]) != words(row[2])]  # "42|42" is a text of digits
    beside: dict[str, set[str]] = defaultdict(set)
    for row in others:
        beside[row[2]].add(words(row[1]))
    numbers = [row[2] for row in others if re.fullmatch(r"[-+]?[\d.,:]*\d[\d.,:]*(e[-+]?\d+)?\s?(s|ms|sec)?", row[2])]
    repeated = [row[2] for row in others if len(beside[row[2]]) > 1]
    for found, kind in ((numbers, "is numeric"), (repeated, "repeats beside different texts")):
        if len(found) > MISREAD_SHARE * len(thirds):
            return f"{kind}, such as {' and '.join(map(repr, list(dict.fromkeys(found))[:2]))}"
    return ""


class FolderSource(ListedSource):
    """A folder with `metadata.csv` and `wavs/` (LJSpeech), or one with `x.wav` and `x.txt` in pairs, at any depth.

    `metadata.csv` has lines `id|text|normalised text`, without a header or quoting; the last non-empty column of the
    two is the transcript. Other columns require `columns`. Audio may be anything that libsndfile or FFmpeg reads, at
    any rate and with any number of channels; the rate is kept, channels are averaged. Hidden files are ignored.

    Args:
        folder: Folder of the recordings. Read on first use.
        speaker: Speaker of all recordings; from_folder: the first folder of each file's path, SPEAKER/x.wav.
        language: Their language, as a two-letter code.
        license: Licence of the recordings, for the credits.
        require_text: Skip recordings without a transcript (which speech synthesis needs). A codec needs none: set it to
            False, and their text is "".
        split: Split of all recordings, such as held_out; empty: as `hold_out` says.
        name: Name of this source: letters, digits, `_` and `-`. Replaces the folder's name as the recordings' `source`,
            and precedes their keys if a preparation has several sources.
        columns: Meaning of the columns of `metadata.csv`, such as [id, text, speaker]. normalised_text has precedence
            over text if it is not empty; duration and ignored are not used.
        hold_out: As of ListedSource.

    Raises (on use):
        FileNotFoundError: The folder does not exist.
        ValueError: It has none of these layouts; transcripts are required and no recording has one; or the third column
            of `metadata.csv` looks like a speaker or a number, and there are no `columns`.
    """

    prefixes_keys = True
    _root = ""  # of the audio files, within the folder

    def __init__(
        self,
        folder: Path,
        speaker: str = "",
        language: str = "en",
        license: str = "unknown",
        require_text: bool = True,
        split: str = "",
        name: str = "",
        columns: list[Column] | None = None,
        hold_out: HoldOut = "auto",
    ) -> None:
        check_name(name)
        if columns is not None and (
            "id" not in columns
            or (require_text and not {"text", "normalised_text"} & set(columns))
            or max(Counter(column for column in columns if column != "ignored").values()) > 1
        ):
            raise ValueError(f"Expected `columns` to hold id and text, each once, but got {list(columns)}.")
        if columns is not None and "speaker" in columns and speaker:
            raise ValueError(f"Expected `speaker` or a column of speakers, but got {speaker!r} and {list(columns)}.")
        super().__init__(folder, name, language, license, require_text, hold_out)
        self.speaker = speaker
        self.split = split
        self.columns = None if columns is None else list(columns)

    @property
    def source_name(self) -> str:
        return self.name or folder_name(self.folder)

    def keyed_items(self) -> list[tuple[str, Item]]:
        items = list(self.items())
        return list(zip(unique_keys([item.name for item in items]), items, strict=True))

    def recording(self, key: str, item: Item) -> Recording | Skipped:
        found = super().recording(key, item)
        return found if isinstance(found, Skipped) else replace(found, prefix=self.name, more={})

    def credits(self) -> str:
        voice = {"": "", FROM_FOLDER: ", one speaker a folder"}.get(self.speaker, f", speaker {self.speaker}")
        return f"Recordings of the folder {folder_name(self.folder)}{voice}. Licence: {self.license}."

    def items(self) -> Iterator[Item]:
        layouts = "`metadata.csv` with lines `id|text` beside a folder `wavs`, or pairs of `x.wav` and `x.txt`"
        self.check_folder(layouts)
        metadata = self.folder / "metadata.csv"
        if self.columns and not metadata.is_file():
            raise ValueError(f"Expected `metadata.csv` for `columns`, but got {self.folder}, where there is none.")
        items = self._listed(metadata) if metadata.is_file() else self._paired()
        if not any(item.path for item in items):
            raise ValueError(f"Expected `folder` to hold {layouts}, but got {self.folder}, where no audio was found.")
        if self.require_text and not any(item.text for item in items if item.path and not item.unusable):
            raise ValueError(
                f"Expected `folder` to hold {layouts}, but got {self.folder}, where no audio file has a transcript. "
                "Set `require_text` to false to use the audio alone."
            )
        yield from items

    def _item(
        self, name: str, file: str | None, text: str, unusable: str = "", speaker: str = "", language: str = ""
    ) -> Item:
        """`file`: relative to the folder; None: there is none."""
        voice = speaker or self.speaker
        if voice == FROM_FOLDER:
            voice = self._speaker_of(file)
            unusable = unusable or ("" if voice else "no speaker: the file is in no folder of its own")
        if file is None:
            unusable = unusable or "no audio file for this line of metadata.csv"
        return Item(name, file or "", text, voice, language, split=self.split, unusable=unusable)

    def _speaker_of(self, file: str | None) -> str:
        """Return the first folder of a file's path, below `wavs` in LJSpeech's layout; "" if it is in none."""
        first, slash, _ = (file or "").removeprefix(self._root).partition("/")
        return first if slash else ""

    def _listed(self, metadata: Path) -> list[Item]:
        """Return the lines of metadata.csv, then the audio files that are not listed there."""
        self._root = "wavs/"
        files = files_below(self.folder / "wavs")
        by_id = {name.rpartition(".")[0]: name for name in files} | {name: name for name in files}
        rows = {number: [cell.strip() for cell in line.split("|")] for number, line in read_lines(metadata)}
        if self.columns is None and (found := misread_third_column(list(rows.values()))):
            raise ValueError(
                f"Expected the third column of {metadata} to be the text normalised, but it {found}. Say in `columns` "
                "what is what: [id, text, speaker], [id, text, duration], or [id, text, normalised_text] as it is."
            )
        items: list[Item] = []
        seen: set[str] = set()
        unlisted = dict(files)
        for number, row in rows.items():
            name, text, speaker, language = self._cells(row)
            file = by_id.get(name)
            identity = file.rpartition(".")[0] if file else name
            reason = ""
            if not name or (self.columns is None and len(row) < 2):
                reason = f"a line of metadata.csv that is not `id|text`: line {number}"
            elif any(BAD_CHARACTER in cell for cell in row):
                reason = f"a line of metadata.csv that is not UTF-8: line {number}"
            if not identity or identity in seen:
                reason = reason or f"a line of metadata.csv that repeats an id: line {number}"
                identity = f"{identity}\nline {number}"  # unique, because no id has a line break
            seen.add(identity)
            unlisted.pop(file, None)
            path = f"wavs/{file}" if file else None
            items.append(self._item(identity, path, text, reason, speaker, language))
        missing = "not in metadata.csv" if self.require_text else ""
        return items + [self._item(name, f"wavs/{name}", "", missing) for name in unlisted]

    def _cells(self, row: Sequence[str]) -> tuple[str, str, str, str]:
        """Return id, text, speaker and language of a line; "" for missing ones."""
        if self.columns is None:
            return row[0], next((cell for cell in reversed(row[1:3]) if cell), ""), "", ""
        cells = dict(zip(self.columns, row, strict=False))
        text = cells.get("normalised_text") or cells.get("text", "")
        return cells.get("id", ""), text, cells.get("speaker", ""), cells.get("language", "")

    def _paired(self) -> list[Item]:
        """Return every audio file with the text file of the same name."""
        self._root = ""
        items: list[Item] = []
        seen: set[str] = set()
        texts = files_below(self.folder, (".txt",))
        text_of = {name.rpartition(".")[0]: path for name, path in texts.items()}
        for name in files_below(self.folder):
            stem = name.rpartition(".")[0]
            if stem in seen:
                items.append(self._item(name, name, "", "another audio file has the same name"))
                continue
            seen.add(stem)
            try:
                text = text_of[stem].read_text("utf-8-sig") if stem in text_of else ""
            except (OSError, ValueError) as error:
                items.append(self._item(stem, name, "", f"unreadable text: {error}"))
            else:
                items.append(self._item(stem, name, text))
        return items
