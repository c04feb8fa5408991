"""WebDatasetSource: tar files in which an audio file is followed or preceded by json or text of the same name."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from datamodules.sources.json_lines import field_scores, field_text, json_object
from datamodules.sources.listed import AUDIO_SUFFIXES, HoldOut, Item, ListedSource, files_below
from datamodules.sources.official_splits import official_splits
from datamodules.sources.tar_members import TarMember, check_in_place, tar_members, tar_samples

TAR_NAMES = ("*.tar", "*.tar.gz", "*.tgz", "*.tar.bz2", "*.tar.xz", "*.tar.zst")
ABOUT = ("json", "txt")  # extensions of the files that are read for the listing


class WebDatasetSource(ListedSource):
    """Tars of WebDataset samples: KEY.flac (or any audio), KEY.json and/or KEY.txt, adjacent in any order. The names of
    tars and folders state the splits (train-000.tar, dev/000.tar). Keys hold the tar's name: two tars may both have a
    sample 000000.

    Args:
        folder, name, language, license, require_text, hold_out: As of ListedSource.
        files: Pattern of the tars' paths in the folder, such as `en/*.tar`.
        text_field: Field of the json with the text; if it has none, the text is that of KEY.txt.
        speaker_field, language_field, license_field: Other fields of the json.
        score_fields: Fields with numbers, higher is better, such as [dnsmos].
        in_place: Leave the audio in the tars and index it there; needs tars without compression.

    Raises (on use):
        FileNotFoundError: The folder does not exist.
        ValueError: It has no such tars, or `in_place` and compressed ones.
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
        text_field: str = "text",
        speaker_field: str = "speaker",
        language_field: str = "language",
        license_field: str = "license",
        score_fields: Sequence[str] = (),
        in_place: bool = True,
    ) -> None:
        super().__init__(folder, name, language, license, require_text, hold_out)
        self.files, self.in_place, self.score_fields = files, in_place, list(score_fields)
        self.text_field, self.speaker_field = text_field, speaker_field
        self.language_field, self.license_field = language_field, license_field

    def items(self) -> Iterator[Item]:
        layout = "tar files of audio with json or txt"
        self.check_folder(layout)
        found = self.tars()
        if not found:
            raise ValueError(f"Expected `folder` to hold {layout}, but got {self.folder}, with none at `{self.files}`.")
        if self.in_place:
            check_in_place([self.folder / name for name in found])
        for name, split in official_splits(found).items():
            yield Item(name, name, split=split, is_container=True)

    def tars(self) -> list[str]:
        """Relative paths of the tars at `files`, sorted."""
        suffixes = sorted({Path(name).suffix for name in TAR_NAMES})
        return [name for name in files_below(self.folder, suffixes) if is_tar(name) and fnmatch(name, self.files)]

    def members(self, item: Item) -> Iterator[Item]:
        members = tar_members([self.folder / item.path], lambda name: name.lower().endswith(ABOUT))
        for key, sample in tar_samples(members):
            yield self.member(key, sample, item)

    def member(self, key: str, sample: dict[str, TarMember], tar: Item) -> Item:
        about, reason = _about(sample)
        found = audio_of(sample)
        text = field_text(about, self.text_field)
        if not text and "txt" in sample:
            text = sample["txt"].content.decode("utf-8-sig", errors="replace")
        return Item(
            key, tar.path, text, field_text(about, self.speaker_field), field_text(about, self.language_field),
            field_text(about, self.license_field), tar.split, subset_of(tar.path),
            bytes_at=found.bytes_at if found else None, content=found.content if found else b"",
            scores=field_scores(about, self.score_fields),
            unusable=reason or ("" if found else "no audio file of this name in the tar"),
        )  # fmt: skip


def is_tar(name: str) -> bool:
    return any(fnmatch(name.lower(), pattern) for pattern in TAR_NAMES)


def subset_of(path: str) -> str:
    """The path of a tar as a part of keys: without its ending, folders joined by `_`."""
    folder, slash, file = path.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}".replace("/", "_")


def audio_of(sample: dict[str, TarMember]) -> TarMember | None:
    """The audio file of a sample; the first by name if several microphones took it."""
    endings = sorted(ending for ending in sample if f".{ending.rpartition('.')[2]}" in AUDIO_SUFFIXES)
    return sample[endings[0]] if endings else None


def _about(sample: dict[str, TarMember]) -> tuple[dict[str, Any], str]:
    """The json of a sample, {} if it has none, and the reason if it cannot be read."""
    about = json_object(sample["json"].content) if "json" in sample else {}
    return ({}, about) if isinstance(about, str) else (about, "")
