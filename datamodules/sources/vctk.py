"""VCTK (Yamagishi et al., 2019): 110 English voices with many accents, 48 kHz; versions 0.92 and 0.80."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from datamodules.sources.listed import HoldOut, Item, ListedSource, files_below, read_lines

NEWER, OLDER = "wav48_silence_trimmed", "wav48"  # folder of the audio in 0.92 and 0.80


class VCTKSource(ListedSource):
    """0.92: `wav48_silence_trimmed/p225/p225_001_mic1.flac` and `_mic2.flac`; 0.80: `wav48/p225/p225_001.wav`; both:
    `txt/p225/p225_001.txt` and `speaker-info.txt` (age, gender, accent).

    Two microphones took the same speech, so one of them is read: both would teach each sentence twice. The first
    sentences are the same for all speakers: `hold_out: text` keeps texts apart, the default keeps speakers apart.

    Args:
        folder: The unpacked archive, which contains `txt`. Read on first use.
        mic: The microphone to read in 0.92: mic1 (omnidirectional) or mic2, which p280 lacks.
        name, license, require_text, hold_out: As of ListedSource. 0.80 states its own licence: set `license`.

    Raises FileNotFoundError on use if the folder is not there, ValueError if it has neither layout.
    """

    corpus: ClassVar[str] = "vctk"
    published_language: ClassVar[str] = "en"

    def __init__(
        self,
        folder: Path,
        mic: Literal["mic1", "mic2"] = "mic1",
        name: str = "",
        license: str = "",
        require_text: bool = True,
        hold_out: HoldOut = "auto",
    ) -> None:
        super().__init__(folder, name, "", license, require_text, hold_out)
        self.mic = mic

    @property
    def published_license(self) -> str:
        """Of 0.92; 0.80 states its own."""
        is_older = (self.folder / OLDER).is_dir() and not (self.folder / NEWER).is_dir()
        return "unknown" if is_older else "CC BY 4.0"

    def items(self) -> Iterator[Item]:
        root = self._root()
        speakers = self._speakers()
        takes: dict[str, dict[str, str]] = {}  # file by microphone, "" in 0.80, of each sentence
        for path in files_below(self.folder / root, (".flac", ".wav")).values():
            name, mic = re.fullmatch(r"(.*?)(?:_(mic[12]))?", path.stem).groups()
            takes.setdefault(name, {})[mic or ""] = path.relative_to(self.folder).as_posix()
        texts = {path.stem: path for path in files_below(self.folder / "txt", (".txt",)).values()}
        for name in sorted({*takes, *texts}):
            files = takes.get(name, {})
            path = files.get(self.mic) or files.get("", "")
            unusable = "" if path else f"no recording of {self.mic}" if files else "no audio file for this text"
            speaker = name.partition("_")[0]
            text = texts[name].read_text("utf-8-sig", errors="replace") if name in texts else ""
            more = {**speakers.get(speaker, {}), **({"microphone": self.mic} if self.mic in files else {})}
            yield Item(name, path, text, speaker, more=more, unusable=unusable)

    def _root(self) -> str:
        """Folder of the audio."""
        layout = "`txt` and `wav48_silence_trimmed` (0.92) or `wav48` (0.80)"
        self.check_folder(layout)
        for name in (NEWER, OLDER):
            if (self.folder / name).is_dir():
                return name
        raise ValueError(f"Expected `folder` to hold {layout}, but got {self.folder}, which has neither.")

    def _speakers(self) -> dict[str, dict[str, str]]:
        """What speaker-info.txt says of each speaker. Columns are separated by spaces; regions may be empty or long."""
        path = self.folder / "speaker-info.txt"
        speakers = {}
        for _, line in read_lines(path) if path.is_file() else ():
            name, *facts = line.split()
            name = f"p{name}" if name.isdigit() else name  # as in 0.80
            speakers[name] = dict(zip(("age", "gender", "accent"), facts, strict=False))
        return speakers
