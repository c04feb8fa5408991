"""EmiliaSource: Emilia and Emilia-YODAS, as tars of mp3 and json, or in the layout of the first release."""

import re
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.sources.json_lines import field_scores, field_text, json_lines
from datamodules.sources.listed import HoldOut, Item, files_below
from datamodules.sources.tar_members import check_in_place, tar_members
from datamodules.sources.webdataset_tars import WebDatasetSource

YODAS, YODAS_LICENSE = "Emilia-YODAS", "CC BY 4.0"
LIST_NAME = re.compile(r"[A-Z]{2}_B\d+\.jsonl")  # EN_B00000.jsonl, of the first layout


class EmiliaSource(WebDatasetSource):
    """Emilia in 2024's and later releases: Emilia/EN/*.tar and Emilia-YODAS/EN/*.tar with ID.mp3 and ID.json. A tar
    below a folder Emilia-YODAS is licensed CC BY 4.0, any other CC BY-NC 4.0.

    Also the first release: EN/EN_B00000.jsonl beside EN_B00000.tar.gz (or its parts, .tar.gz.0 and .1), a decompressed
    EN_B00000.tar, or the unpacked folder EN_B00000. Tars with gzip need `in_place` false.

    Args and Raises: as of WebDatasetSource. dnsmos is a score.
    """

    corpus = "emilia"
    published_license = "CC BY-NC 4.0"

    def __init__(
        self,
        folder: Path,
        name: str = "",
        language: str = "",
        license: str = "",
        require_text: bool = True,
        hold_out: HoldOut = "auto",
        files: str = "*",
        in_place: bool = True,
    ) -> None:
        super().__init__(
            folder, name, language, license, require_text, hold_out, files, score_fields=["dnsmos"], in_place=in_place
        )

    def credits(self) -> str:
        license = self.license or f"{self.published_license} (Emilia), {YODAS_LICENSE} ({YODAS})"
        return f"Emilia, {self.folder.resolve().name}. Licence: {license}."

    def items(self) -> Iterator[Item]:
        self.check_folder("Emilia's folders of languages")
        lists = [
            name
            for name in files_below(self.folder, (".jsonl",))
            if LIST_NAME.fullmatch(PurePosixPath(name).name) and fnmatch(name, self.files)
        ]
        archives = {name: self._archive(name) for name in lists}
        listed = {name.removesuffix(".jsonl") for name in lists}
        tars = [name for name in self.tars() if name.partition(".tar")[0] not in listed]
        if not lists and not tars:
            raise ValueError(
                f"Expected `folder` to hold EN/*.tar, or EN/EN_B00000.jsonl beside EN_B00000.tar.gz, but got "
                f"{self.folder}, with neither at `{self.files}`."
            )
        if self.in_place:
            check_in_place(
                [*(paths[0] for paths in archives.values() if paths), *(self.folder / name for name in tars)]
            )
        for name in [*lists, *tars]:
            yield Item(name, name, is_container=True)

    def members(self, item: Item) -> Iterator[Item]:
        if item.path.endswith(".jsonl"):
            yield from self._listed(item)
            return
        of_yodas = YODAS in (self.folder.resolve().name, *PurePosixPath(item.path).parts)
        license = self.license or (YODAS_LICENSE if of_yodas else self.published_license)
        for member in super().members(item):
            name = member.name.rpartition("/")[2]  # the json's `wav` is a path of before
            yield replace(member, name=name, subset="YODAS" if of_yodas else "", license=license)

    def _archive(self, name: str) -> list[Path]:
        """The tar of a list, or its parts; [] if it was unpacked."""
        stem = (self.folder / name).with_suffix("")
        for ending in (".tar", ".tar.gz"):
            whole = stem.with_name(stem.name + ending)
            if whole.is_file():
                return [whole]
            parts = [path for path in stem.parent.glob(f"{whole.name}.*") if path.suffix[1:].isdigit()]
            if parts:
                return sorted(parts, key=lambda path: int(path.suffix[1:]))
        return []

    def _listed(self, item: Item) -> Iterator[Item]:
        """The recordings of a list of the first layout."""
        records: dict[str, dict[str, Any]] = {}
        for number, record in json_lines(self.folder / item.path):
            wav = "" if isinstance(record, str) else field_text(record, "wav").removeprefix("./")
            if isinstance(record, str) or not wav or wav in records:
                reason = (
                    record if isinstance(record, str) else "a line that names no audio file, or one for the second time"
                )
                yield Item(f"{item.name} line {number}", item.path, unusable=f"{reason}: line {number}")
            else:
                records[wav] = record
        language = PurePosixPath(item.path).parent
        archive = self._archive(item.path)
        if not archive:
            for wav, record in records.items():
                path = (language / wav).as_posix()
                found = (self.folder / path).is_file()
                yield self._of_list(record, path, unusable="" if found else "a listed mp3 is missing")
            return
        path = archive[0].relative_to(self.folder).as_posix()
        for member in tar_members(archive, lambda name: False):
            if record := records.pop(member.name, None):
                yield self._of_list(record, path, bytes_at=member.bytes_at, content=member.content)
            elif member.name.endswith(".mp3"):
                yield Item(PurePosixPath(member.name).stem, path, unusable="an mp3 that is not in the list")
        for record in records.values():
            yield self._of_list(record, path, unusable="a listed mp3 is missing")

    def _of_list(self, record: dict[str, Any], path: str, **where: Any) -> Item:
        return Item(
            PurePosixPath(field_text(record, "wav")).stem, path, field_text(record, "text"),
            field_text(record, "speaker"), field_text(record, "language"),
            scores=field_scores(record, self.score_fields), **where,
        )  # fmt: skip
