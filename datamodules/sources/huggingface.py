"""ParquetSource and AudioFolderSource: the two layouts of speech on the Hugging Face hub."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.sources.json_lines import field_scores, field_text, json_lines
from datamodules.sources.listed import HoldOut, Item, ListedSource, files_below
from datamodules.sources.official_splits import official_splits

BATCH_ROWS = 16  # rows in memory at once: minutes of speech, not a row group of hundreds


class ParquetSource(ListedSource):
    """Parquet files with a column of audio, struct(bytes, path), as `datasets` writes them: data/train-*.parquet or
    CONFIG/train-*.parquet. Names of files and folders state the splits. The rate that the schema declares is not used:
    the audio says its own. Integers of a column of class labels become their names.

    Args:
        folder, name, language, license, require_text, hold_out: As of ListedSource.
        files: Pattern of the files' paths in the folder, such as `de/*`.
        audio_column, text_column: Names of columns.
        speaker_column, language_column: Further columns; empty: none.
        id_column: Column with ids that are unique in a folder; empty: ids are file and row.
        score_columns: Columns with numbers, higher is better.

    Raises (on use):
        FileNotFoundError: The folder does not exist.
        ValueError: It has no such files, or they lack a column.
    """

    def __init__(
        self,
        folder: Path,
        name: str = "",
        language: str = "",
        license: str = "",
        require_text: bool = True,
        hold_out: HoldOut = "auto",
        files: str = "*",
        audio_column: str = "audio",
        text_column: str = "text",
        speaker_column: str = "",
        language_column: str = "",
        id_column: str = "",
        score_columns: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, name, language, license, require_text, hold_out)
        self.files, self.audio_column, self.text_column = files, audio_column, text_column
        self.speaker_column, self.language_column, self.id_column = speaker_column, language_column, id_column
        self.score_columns = list(score_columns)

    def items(self) -> Iterator[Item]:
        layout = f"parquet files at `{self.files}`"
        self.check_folder(layout)
        found = [name for name in files_below(self.folder, (".parquet",)) if fnmatch(name, self.files)]
        if not found:
            raise ValueError(f"Expected `folder` to hold {layout}, but got {self.folder}, where there is none.")
        self._check_columns(found[0])
        for name, split in official_splits(found).items():
            yield Item(name, name, split=split, is_container=True)

    def _columns(self) -> list[str]:
        named = [self.audio_column, self.speaker_column, self.language_column, self.id_column, *self.score_columns]
        return [column for column in [*named, self.text_column if self.require_text else ""] if column]

    def _check_columns(self, name: str) -> None:
        import pyarrow.parquet

        known = pyarrow.parquet.read_schema(self.folder / name).names
        if missing := [column for column in self._columns() if column not in known]:
            raise ValueError(f"Expected {name} to have columns {', '.join(missing)}, but it has {', '.join(known)}.")

    def members(self, item: Item) -> Iterator[Item]:
        import pyarrow.parquet

        folder, stem = PurePosixPath(item.path).parent, PurePosixPath(item.path).stem
        subset = "_".join(part for part in folder.parts if part != "data")
        row = 0
        with pyarrow.parquet.ParquetFile(self.folder / item.path) as file:
            labels = class_labels(file.schema_arrow.metadata)
            columns = [name for name in {*self._columns(), self.text_column} if name in file.schema_arrow.names]
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                for record in batch.to_pylist():
                    name = field_text(record, self.id_column) or f"{stem}_{row:06d}"
                    yield self._member(name, named_labels(record, labels), item, subset)
                    row += 1

    def _member(self, name: str, record: dict[str, Any], file: Item, subset: str) -> Item:
        path, content = file.path, b""
        audio, reason = record.get(self.audio_column), ""
        if isinstance(audio, str | bytes):
            audio = {"bytes" if isinstance(audio, bytes) else "path": audio}
        if not isinstance(audio, Mapping) or not (audio.get("bytes") or audio.get("path")):
            reason = "no audio: neither bytes nor a path"
        elif audio.get("bytes"):
            content = audio["bytes"]
        else:
            places = (PurePosixPath(file.path).parent / audio["path"], PurePosixPath(audio["path"]))
            found = [place for place in places if (self.folder / place).is_file()]
            path = str(found[0]) if found else path
            reason = "" if found else f"no bytes, and no file at its path: {audio['path']}"
        return Item(
            name, path, field_text(record, self.text_column), field_text(record, self.speaker_column),
            field_text(record, self.language_column), split=file.split, subset=subset, content=content,
            scores=field_scores(record, self.score_columns), unusable=reason,
        )  # fmt: skip


def class_labels(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Names of the class labels of each column that has them, from the metadata of `datasets` in a schema."""
    if not metadata or b"huggingface" not in metadata:
        return {}
    features = json.loads(metadata[b"huggingface"]).get("info", {}).get("features", {})
    return {name: about["names"] for name, about in features.items() if about.get("_type") == "ClassLabel"}


def named_labels(record: dict[str, Any], labels: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The record with names in the place of integer labels; -1 is no label."""
    named = {}
    for column, names in labels.items():
        label = record.get(column)
        if isinstance(label, int):
            named[column] = names[label] if 0 <= label < len(names) else None
    return record | named


class AudioFolderSource(ListedSource):
    """Audio files beside metadata.csv, .jsonl or .parquet, whose `file_name` is relative to it: one in each folder of a
    split, or one for all. Names of folders state the splits. csv is read with quotes, as `datasets` does.

    Args:
        folder, name, language, license, require_text, hold_out: As of ListedSource.
        file_field, text_field: Names of columns.
        speaker_field, language_field: Further columns; empty: none.

    Raises (on use):
        FileNotFoundError: The folder does not exist.
        ValueError: It has no metadata, or they lack a column.
    """

    def __init__(
        self,
        folder: Path,
        name: str = "",
        language: str = "",
        license: str = "",
        require_text: bool = True,
        hold_out: HoldOut = "auto",
        file_field: str = "file_name",
        text_field: str = "transcription",
        speaker_field: str = "",
        language_field: str = "",
    ) -> None:
        super().__init__(folder, name, language, license, require_text, hold_out)
        self.file_field, self.text_field = file_field, text_field
        self.speaker_field, self.language_field = speaker_field, language_field

    def items(self) -> Iterator[Item]:
        layout = "metadata.csv, metadata.jsonl or metadata.parquet beside audio files"
        self.check_folder(layout)
        lists = [
            name
            for name in files_below(self.folder, (".csv", ".jsonl", ".parquet"))
            if PurePosixPath(name).stem == "metadata"
        ]
        if not lists:
            raise ValueError(f"Expected `folder` to hold {layout}, but got {self.folder}, where there is none.")
        audio = files_below(self.folder)
        # The name of the audio file itself states no split.
        split_of = official_splits(sorted({str(PurePosixPath(name).parent) for name in [*audio, *lists]}))
        unlisted = dict.fromkeys(audio)
        for metadata in lists:
            for number, record in self._records(metadata):
                file = "" if isinstance(record, str) else field_text(record, self.file_field)
                if isinstance(record, str) or not file:
                    reason = record if isinstance(record, str) else f"a line without `{self.file_field}`"
                    yield Item(f"{metadata} line {number}", metadata, unusable=f"{reason}: line {number}")
                    continue
                path = (PurePosixPath(metadata).parent / file).as_posix()
                unlisted.pop(path, None)
                yield Item(
                    path.removesuffix(PurePosixPath(path).suffix), path, field_text(record, self.text_field),
                    field_text(record, self.speaker_field), field_text(record, self.language_field),
                    split=split_of.get(str(PurePosixPath(path).parent), ""),
                    unusable="" if path in audio else "no audio file of this name",
                )  # fmt: skip
        for path in unlisted:
            split = split_of[str(PurePosixPath(path).parent)]
            name = path.removesuffix(PurePosixPath(path).suffix)
            yield Item(name, path, split=split, unusable="not in the metadata" if self.require_text else "")

    def _records(self, metadata: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
        path = self.folder / metadata
        if path.suffix == ".jsonl":
            for number, record in json_lines(path):
                if number == 1 and not isinstance(record, str):
                    self._check_fields(metadata, list(record))
                yield number, record
        elif path.suffix == ".parquet":
            import pyarrow.parquet

            table = pyarrow.parquet.read_table(path)
            self._check_fields(metadata, table.column_names)
            labels = class_labels(table.schema.metadata)
            yield from ((number, named_labels(row, labels)) for number, row in enumerate(table.to_pylist(), start=1))
        else:
            with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
                rows = csv.DictReader(stream)
                self._check_fields(metadata, list(rows.fieldnames or []))
                try:
                    yield from ((rows.line_num, row) for row in rows)
                except csv.Error as error:  # such as a quote without its end
                    yield rows.line_num, f"not csv: {error}"

    def _check_fields(self, metadata: str, known: Sequence[str]) -> None:
        wanted = [
            self.file_field,
            self.speaker_field,
            self.language_field,
            self.text_field if self.require_text else "",
        ]
        if missing := [field for field in wanted if field and field not in known]:
            raise ValueError(f"Expected {metadata} to have fields {', '.join(missing)}, but it has {', '.join(known)}.")
