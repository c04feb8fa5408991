"""Common Voice (Ardila et al., 2020): sentences read by volunteers in 100 languages and more, in mp3."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.sources.listed import HoldOut, Item, ListedSource, read_lines
from datamodules.sources.source import Recording, Skipped
from datamodules.sources.text_style import text_style

Clips = Literal["train", "dev", "test", "validated", "other", "invalidated"]
COLUMNS = {"client_id", "path", "sentence"}
HELD_OUT = {"dev": "held_out", "test": "test"}
# Seconds that a decoder may leave out at the ends of an mp3: clips that lack more of their published length are cut.
MAX_MISSING = 0.25
# Columns of the json, by their names in the lists; older versions have `accent`.
FACTS = {"gender": "gender", "age": "age", "accents": "accents", "accent": "accents", "variant": "variant"}


class CommonVoiceSource(ListedSource):
    """`LANGUAGE/clips/common_voice_LANGUAGE_1.mp3`, named by the column `path` of `LANGUAGE/train.tsv`, `dev.tsv`,
    `test.tsv`, `validated.tsv`, `other.tsv` and `invalidated.tsv`; `client_id` is the speaker, `sentence` the text.

    dev is held out, test is the split `test`. Of the other lists, clips whose speaker or sentence is in dev or test are
    skipped; the rest is the split `train`, or split as `hold_out` says if dev is not read. A clip that is in several
    lists is read once. Clips that are shorter than `clip_durations.tsv` says are skipped.

    Args:
        folder: The unpacked archive, `cv-corpus-VERSION-DATE`, which contains the languages. Read on first use.
        languages: Folders of languages, such as en or sv-SE; none: all that are there.
        lists: Lists to read. train, dev and test together are a small part of validated.
        name, license, require_text, hold_out: As of ListedSource.

    Raises FileNotFoundError on use if the folder, a language or a list is not there, ValueError if a list lacks the
    columns `client_id`, `path` and `sentence`.
    """

    corpus: ClassVar[str] = "common_voice"
    published_license: ClassVar[str] = "CC0-1.0"

    def __init__(
        self,
        folder: Path,
        languages: list[str] | None = None,
        lists: list[Clips] | None = None,
        name: str = "",
        license: str = "",
        require_text: bool = True,
        hold_out: HoldOut = "auto",
    ) -> None:
        super().__init__(folder, name, "", license, require_text, hold_out)
        self.languages, self.lists = languages, lists or ["train", "dev", "test"]

    def items(self) -> Iterator[Item]:
        layout = "a folder of each language with `clips` and `train.tsv`"
        self.check_folder(layout)
        there = sorted(path.parent.name for path in self.folder.glob("*/clips"))
        wanted = there if self.languages is None else self.languages
        if not wanted or set(wanted) - set(there):
            raise FileNotFoundError(
                f"Expected `folder` to hold {layout} ({', '.join(wanted) or 'any'}), but got {self.folder} with "
                f"{', '.join(there) or 'none'}."
            )
        for language in wanted:
            yield from self._language(language)

    def _language(self, language: str) -> Iterator[Item]:
        root = self.folder / language
        seconds = published_seconds(root / "clip_durations.tsv")
        split_of: dict[str, str] = {}  # of clips in dev and test
        speakers, sentences = set(), set()
        for name, split in HELD_OUT.items():
            for _, row in rows(root / f"{name}.tsv") if (root / f"{name}.tsv").is_file() else ():
                split_of[row.get("path", "")] = split
                speakers.add(row.get("client_id", ""))
                sentences.add(plain(row.get("sentence", "")))
        speakers.discard("")
        sentences.discard("")
        official = "train" if "held_out" in split_of.values() and {"dev", "validated"} & set(self.lists) else ""
        seen: set[str] = set()
        for name in self.lists:
            for number, row in rows(root / f"{name}.tsv"):
                path, speaker, sentence = (row.get(column, "") for column in ("path", "client_id", "sentence"))
                if not path or "/" in path or not row.keys() >= COLUMNS:
                    reason = f"a line of {name}.tsv that does not have its columns: line {number}"
                    yield Item(f"{name} line {number}", subset=language, unusable=reason)
                elif path not in seen:
                    seen.add(path)
                    leaks = path not in split_of and (speaker in speakers or plain(sentence) in sentences)
                    more: dict[str, Any] = {FACTS[key]: row[key] for key in FACTS if row.get(key)} | text_style(
                        sentence
                    )
                    yield Item(
                        path.removesuffix(".mp3"), f"{language}/clips/{path}", sentence, speaker, language,
                        split=split_of.get(path, official), subset=language,
                        more=more | ({"published_seconds": seconds[path]} if path in seconds else {}),
                        unusable="its speaker or sentence is in dev or test" if leaks else "",
                    )  # fmt: skip

    def recording(self, key: str, item: Item) -> Recording | Skipped:
        found = super().recording(key, item)
        if isinstance(found, Skipped):
            return found
        seconds = found.audio.samples_T.numel() / found.audio.sample_rate
        published = item.more.get("published_seconds", 0.0)
        if seconds < published - MAX_MISSING:
            return Skipped(key, f"shorter than clip_durations.tsv says: {seconds:.2f} s of {published:.2f} s")
        return found


def rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and columns, by the names in the first line, of each line of a list. Quotes are text. A line with
    too few columns has the first ones, one with too many none.

    Raises FileNotFoundError, and ValueError if COLUMNS are not all there.
    """
    header: list[str] = []
    for number, line in read_lines(path):
        cells = line.split("\t")
        if header:
            yield number, dict(zip(header, cells, strict=False)) if len(cells) <= len(header) else {}
            continue
        header = cells
        if missing := COLUMNS - set(header):
            raise ValueError(f"Expected {path} to have the columns {', '.join(sorted(missing))}, but got {header}.")


def plain(sentence: str) -> str:
    """The words of a sentence, to compare it with others."""
    return " ".join(re.findall(r"\w+", sentence.casefold())) or sentence


def published_seconds(path: Path) -> Mapping[str, float]:
    """Length of each clip in `clip_durations.tsv`, which has milliseconds; empty if there is none."""
    if not path.is_file():
        return {}
    lines = (line.split("\t") for _, line in read_lines(path))
    return {cells[0]: int(cells[1]) / 1000 for cells in lines if len(cells) > 1 and cells[1].strip().isdigit()}
