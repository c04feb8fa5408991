"""LibriSpeech (Panayotov et al., 2015): read English books, 16 kHz, transcripts in capitals without punctuation."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from datamodules.sources.listed import HoldOut, Item, ListedSource, files_below, read_lines
from datamodules.sources.official_splits import official_splits
from datamodules.sources.text_style import text_style


class LibriSpeechSource(ListedSource):
    """`SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-0000.flac`, with lines `id TEXT` in `SPEAKER-CHAPTER.trans.txt`.

    Subsets: train-clean-100, train-clean-360, train-other-500, dev-clean, dev-other, test-clean, test-other; no speaker
    is in two of them. dev is held out, test is the split `test`, train is split as `hold_out` says if no dev is read.
    `SPEAKERS.TXT` adds the gender.

    Args:
        folder: The unpacked archive, `LibriSpeech`, which contains the subsets. Read on first use.
        subsets: Subsets to read; none: all that are there.
        name, language, license, require_text, hold_out: As of ListedSource.

    Raises FileNotFoundError on use if the folder or one of the `subsets` is not there, ValueError if no subset is.
    """

    corpus: ClassVar[str] = "librispeech"
    published_license: ClassVar[str] = "CC BY 4.0"
    published_language: ClassVar[str] = "en"
    audio_suffix: ClassVar[str] = ".flac"
    list_suffix: ClassVar[str] = ".txt"

    def __init__(
        self,
        folder: Path,
        subsets: list[str] | None = None,
        name: str = "",
        language: str = "",
        license: str = "",
        require_text: bool = True,
        hold_out: HoldOut = "auto",
    ) -> None:
        super().__init__(folder, name, language, license, require_text, hold_out)
        self.subsets = subsets

    def items(self) -> Iterator[Item]:
        gender_of = genders(self.folder / "SPEAKERS.TXT") | genders(self.folder / "SPEAKERS.txt")
        roots = self._roots()
        split_of = official_splits(roots)
        for subset, root in roots.items():
            for chapter, file_of in self._chapters(root):
                lines = self.lines(chapter)
                for name in sorted({*file_of, *lines}):
                    speaker = re.split("[-_]", name)[0]
                    line = lines.get(name) or Item(name)
                    unusable = ""
                    if name not in file_of:
                        unusable = "no audio file for this line of the transcripts"
                    elif name not in lines and self.require_text:
                        unusable = "not in the transcripts"
                    yield replace(
                        line, path=file_of.get(name, ""), speaker=speaker, split=split_of[subset], subset=subset,
                        more={**gender_of.get(speaker, {}), **text_style(line.text), **line.more}, unusable=unusable,
                    )  # fmt: skip

    def lines(self, chapter: Path) -> dict[str, Item]:
        """What the transcripts in a folder say of each id that they list."""
        found = {}
        for path in sorted(chapter.glob("[!.]*.trans.txt")):
            for _, line in read_lines(path):
                name, _, text = line.strip().partition(" ")
                found[name] = Item(name, text=text)
        return found

    def _roots(self) -> dict[str, Path]:
        """Folder of each subset, by its official name."""
        layout = f"subsets such as train-clean-100 of {self.corpus}"
        self.check_folder(layout)
        there = {
            path.name.replace("_", "-"): path
            for path in sorted(self.folder.iterdir())
            if path.is_dir() and re.fullmatch(r"(train|dev|test)[-_].+", path.name)
        }
        wanted = list(there) if self.subsets is None else [name.replace("_", "-") for name in self.subsets]
        if absent := [name for name in wanted if name not in there]:
            raise FileNotFoundError(
                f"Expected {self.folder} to hold the subsets {', '.join(absent)}, but got {', '.join(there) or 'none'}."
            )
        if not wanted:
            raise ValueError(f"Expected `folder` to hold {layout}, but got {self.folder}, where there is none.")
        return {name: there[name] for name in wanted}

    def _chapters(self, root: Path) -> Iterator[tuple[Path, dict[str, str]]]:
        """Each folder with audio or transcripts, and its audio files by id."""
        chapters: dict[Path, dict[str, str]] = {}
        for path in files_below(root, (self.audio_suffix, self.list_suffix)).values():
            file_of = chapters.setdefault(path.parent, {})
            if path.suffix.lower() == self.audio_suffix:
                file_of[path.stem] = path.relative_to(self.folder).as_posix()
        yield from chapters.items()


def genders(path: Path) -> dict[str, dict[str, str]]:
    """{"gender": ...} of each speaker in a table `speaker | gender | ...`, in which `;` begins comments; empty if there
    is no such file."""
    if not path.is_file():
        return {}
    rows = [[cell.strip() for cell in line.split("|")] for _, line in read_lines(path)]
    return {row[0]: {"gender": row[1]} for row in rows if len(row) > 1 and row[1]}
