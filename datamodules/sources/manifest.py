"""ManifestSource: lists with a line for each recording, as json (NeMo) or separated by `|` (F5-TTS, Piper, Coqui)."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.sources.json_lines import SUFFIXES, field_text, json_lines
from datamodules.sources.listed import (
    AUDIO_SUFFIXES,
    BAD_CHARACTER,
    HoldOut,
    Item,
    ListedSource,
    files_below,
    read_lines,
)
from datamodules.sources.official_splits import official_splits
from datamodules.sources.tar_members import tar_members

Record = dict[str, Any]
CSV_SUFFIXES = (".csv", ".tsv", ".txt")


class ManifestSource(ListedSource):
    """Manifests in which each line is one recording: json objects, or fields between separators, read without quotes.
    The defaults are NeMo's. Paths are relative to the manifest's folder. `offset` and `duration` (seconds) cut a longer
    file. Lines with `shard_id` are members of the tar of that number beside the manifest. The names of manifests and
    folders state the splits (dev_manifest.json).

    F5-TTS: {files: '*.csv', audio_field: audio_file, text_fields: [text]}, with the header `audio_file|text`; without
    one, {columns: [audio_file, text]}. A name without a folder or ending may be in `wavs`.

    Args:
        folder, name, language, license, require_text, hold_out: As of ListedSource.
        files: Pattern of the manifests' paths in the folder. By their endings they are json (.json, .jsonl, also .gz)
            or separated (.csv, .tsv, .txt).
        audio_field: Field with the path.
        text_fields: Fields with the text; the first that is not empty.
        speaker_field, language_field: Other fields.
        columns: Names of the fields of a separated manifest that has no header.
        separator: Between fields; the last one may hold it.
        tars: Name of the tar of a shard.

    Raises (on use):
        FileNotFoundError: The folder does not exist.
        ValueError: It has no such manifests, or one that is separated has neither a header with `audio_field` nor
            `columns`.
    """

    def __init__(
        self,
        folder: Path,
        name: str = "",
        language: str = "",
        license: str = "",
        require_text: bool = True,
        hold_out: HoldOut = "auto",
        files: str = "*manifest*.json*",
        audio_field: str = "audio_filepath",
        text_fields: Sequence[str] = ("normalized_text", "text"),
        speaker_field: str = "speaker",
        language_field: str = "lang",
        columns: Sequence[str] | None = None,
        separator: str = "|",
        tars: str = "audio_{shard_id}.tar",
    ) -> None:
        super().__init__(folder, name, language, license, require_text, hold_out)
        self.files, self.audio_field, self.text_fields = files, audio_field, list(text_fields)
        self.speaker_field, self.language_field = speaker_field, language_field
        self.columns, self.separator, self.tars = None if columns is None else list(columns), separator, tars
        self._shards: dict[str, dict[str, list[Record]]] = {}  # of a manifest: lines by name of their tar

    def items(self) -> Iterator[Item]:
        layout = f"manifests at `{self.files}`, a recording in each line"
        self.check_folder(layout)
        found = [
            name for name in files_below(self.folder, (*CSV_SUFFIXES, ".gz", *SUFFIXES)) if fnmatch(name, self.files)
        ]
        found = [name for name in found if "sharded_manifests" not in name.split("/")]  # NeMo's copies, one of each tar
        if not found:
            raise ValueError(f"Expected `folder` to hold {layout}, but got {self.folder}, where there is none.")
        for name, split in official_splits(found).items():
            shards: dict[str, list[Record]] = {}
            for number, record in self._records(name):
                if isinstance(record, str):
                    yield Item(f"{name} line {number}", name, split=split, unusable=f"{record}: line {number}")
                elif "shard_id" in record:
                    shards.setdefault(self.tars.format(shard_id=record["shard_id"]), []).append(record)
                else:
                    yield self._item(record, name, split)
            self._shards[name] = shards
            for tar in shards:
                yield Item(f"{name}/{tar}", _beside(name, tar), split=split, subset=name, is_container=True)

    def _records(self, name: str) -> Iterator[tuple[int, Record | str]]:
        path = self.folder / name
        if path.suffix in CSV_SUFFIXES:
            return self._separated(path)
        return json_lines(path)

    def _separated(self, path: Path) -> Iterator[tuple[int, Record | str]]:
        columns = self.columns
        for number, line in read_lines(path):
            if columns is None:
                columns = [cell.strip() for cell in line.split(self.separator)]
                if self.audio_field not in columns:
                    raise ValueError(
                        f"Expected the first line of {path} to name the fields, {self.audio_field} among them, but got "
                        f"{line[:80]!r}. Name `audio_field`, or `columns` if the manifest has no header."
                    )
                continue
            cells = [cell.strip() for cell in line.split(self.separator, len(columns) - 1)]
            if cells == self.columns:  # a header in spite of `columns`
                continue
            if BAD_CHARACTER in line:
                yield number, "a line that is not UTF-8"
            elif len(cells) < len(columns):
                yield number, f"a line that is not `{self.separator.join(columns)}`"
            else:
                yield number, dict(zip(columns, cells, strict=True))

    def _item(self, record: Record, manifest: str, split: str, **where: Any) -> Item:
        written = field_text(record, self.audio_field).strip()
        path = written if "path" in where else self._path(manifest, written)
        start, end, reason = _cut(record)
        name = written if "path" in where else path
        name = name.removesuffix(PurePosixPath(name).suffix) if name.lower().endswith(AUDIO_SUFFIXES) else name
        if start or end is not None:
            name = f"{name}_{start:g}" + ("" if end is None else f"_{end:g}")
        where = {"path": path, "unusable": reason if written else f"a line without `{self.audio_field}`", **where}
        return Item(
            name or f"{manifest} {record}"[:200], text=field_text(record, *self.text_fields),
            speaker=field_text(record, self.speaker_field), language=field_text(record, self.language_field),
            split=split, start=start, end=end, **where,
        )  # fmt: skip

    def _path(self, manifest: str, written: str) -> str:
        """Path of an audio file relative to the folder, or absolute. One that is nowhere may be in `wavs`."""
        path = _beside(manifest, written)
        if PurePosixPath(manifest).suffix not in CSV_SUFFIXES or not written or (self.folder / path).is_file():
            return self._inside(path)
        file = PurePosixPath(written).name
        for found in (_beside(manifest, f"wavs/{file}{ending}") for ending in ("", *AUDIO_SUFFIXES)):
            if (self.folder / found).is_file():
                return found
        return self._inside(path)

    def _inside(self, path: str) -> str:
        """An absolute path below the folder as a relative one, so that a key does not depend on the place."""
        root = f"{self.folder.absolute().as_posix()}/"
        return path.removeprefix(root)

    def members(self, item: Item) -> Iterator[Item]:
        manifest, tar = item.subset, PurePosixPath(item.path).name
        if manifest not in self._shards:  # another process than the one that listed
            for _ in self.items():
                pass
        lines: dict[str, list[Record]] = {}
        cuts: dict[str, list[str]] = {}  # NeMo's x-sub1.wav is a further cut of the member x.wav
        for record in self._shards[manifest][tar]:
            name = field_text(record, self.audio_field)
            lines.setdefault(name, []).append(record)
            cuts.setdefault(re.sub(r"-sub\d+(?=\.\w+$)", "", name), []).append(name)
        for member in tar_members([self.folder / item.path], lambda name: False):
            names = [member.name, *cuts.get(member.name, [])]
            records = [record for name in names for record in lines.pop(name, [])]
            if not records:
                yield Item(member.name, item.path, unusable="in the tar, but not in the manifest")
            for record in records:
                yield self._item(
                    record, manifest, item.split, path=item.path, bytes_at=member.bytes_at, content=member.content
                )
        for record in (record for records in lines.values() for record in records):
            yield self._item(record, manifest, item.split, path=item.path, unusable="not in its tar")


def _beside(manifest: str, name: str) -> str:
    return (PurePosixPath(manifest).parent / name).as_posix()


def _cut(record: Record) -> tuple[float, float | None, str]:
    """Start and end in seconds; the whole file if the line has no offset. The reason if they are no numbers."""
    offset, duration = record.get("offset"), record.get("duration")
    if offset is None:
        return 0.0, None, ""
    try:
        start = float(offset)
        end = None if duration is None else start + float(duration)
    except (TypeError, ValueError):
        return 0.0, None, f"offset or duration is no number: {offset!r}, {duration!r}"
    if not 0 <= start < float("inf") or (end is not None and not start < end < float("inf")):
        return 0.0, None, f"offset and duration cut nothing: {offset!r}, {duration!r}"
    return start, end, ""
