"""ListedSource: base of corpora whose recordings can be listed before any audio is read, so that a preparation can
share them among processes and resume."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.sources.source import Recording, Skipped, unusable_audio
from modules.api import Audio
from modules.audio import message_of, read_audio

HoldOut = Literal["auto", "speaker", "text", "key"]
# Formats of audio files, by the ends of their names: of libsndfile, then of FFmpeg.
AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd"),
    *(".caf", ".w64", ".rf64", ".nist", ".sph", ".voc", ".sf", ".avr"),
    *(".m4a", ".m4b", ".aac", ".webm", ".wma", ".mp2", ".ac3", ".amr", ".ape", ".mka", ".mkv", ".mp4", ".mov"),
)
BAD_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # from bytes that are no UTF-8


@dataclass(frozen=True)
class Item:
    """One recording of a corpus before its audio is read, or a container of many (a tar or parquet file).

    `name` is its published id, unique within its `subset`. The audio is the file at `path`, relative to the source's
    folder; or the bytes `bytes_at` = (offset, size) of that file; or `content`. `start` and `end` cut it, in seconds;
    `channel` is the one of several to use, None the mean of all.
    `split` is the official one, "" if the corpus has none. `scores` are published numbers (dnsmos), higher is better;
    `more` are other published fields for the json. `unusable` is the reason why it cannot be used, "" if it can.
    """

    name: str
    path: str = ""
    text: str = ""
    speaker: str = ""
    language: str = ""
    license: str = ""
    split: str = ""
    subset: str = ""
    start: float = 0.0
    end: float | None = None
    channel: int | None = None
    bytes_at: tuple[int, int] | None = None
    content: bytes = b""
    is_container: bool = False
    scores: Mapping[str, float] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    unusable: str = ""


class ListedSource:
    """Base of a corpus. A subclass yields its recordings from `items`; of one with containers, `members` yields the
    recordings of each. Both never raise for one bad line or file: they yield an `unusable` item.

    Keys are CORPUS_SUBSET_ID, or NAME_SUBSET_ID with a `name`; characters other than letters, digits, `_` and `-` are
    replaced, and a hash keeps changed names apart.

    Args:
        folder: Folder of the corpus as published. Read on first use.
        name: Name of this source: letters, digits, `_` and `-`. Replaces the corpus' name in keys and as the
            recordings' `source`.
        language: Language of recordings whose item states none; empty: the corpus'.
        license: Their licence; empty: the publisher's.
        require_text: Skip recordings without a transcript, which speech synthesis needs and a codec does not.
        hold_out: Which recordings are held out where the corpus has no official split: a tenth of the speakers, of the
            texts, or of the keys, each by its hash. auto: of the speakers of a corpus of twenty or more, else of the
            texts.

    Raises (on use):
        FileNotFoundError: The folder, or a list in it, does not exist.
        ValueError: It does not have the corpus' layout, or no recording in it has what is required.
    """

    corpus: ClassVar[str] = ""
    published_license: ClassVar[str] = "unknown"
    published_language: ClassVar[str] = ""
    in_place: bool = False  # audio in tar files is left there: the index points into them
    prefixes_keys: bool = False  # the name precedes the keys only among several sources
    folder: Path = Path()
    hold_out: HoldOut = "auto"
    name: str = ""
    require_text: bool = True

    def __init__(
        self,
        folder: Path,
        name: str = "",
        language: str = "",
        license: str = "",
        require_text: bool = True,
        hold_out: HoldOut = "auto",
    ) -> None:
        check_name(name)
        self.folder, self.name, self.language, self.license = Path(folder), name, language, license
        self.require_text, self.hold_out = require_text, hold_out

    def items(self) -> Iterator[Item]:
        """Yield every recording or container, in any order that does not change from call to call."""
        raise NotImplementedError(f"Expected {type(self).__name__} to have a method `items`.")

    def members(self, item: Item) -> Iterator[Item]:
        """Yield the recordings of a container, in their order in it."""
        raise NotImplementedError(f"Expected {type(self).__name__} to have a method `members` for {item.name!r}.")

    @property
    def source_name(self) -> str:
        """`name`, or the corpus' name, or that of the folder for layouts of any corpus."""
        return self.name or self.corpus or folder_name(self.folder)

    def key(self, item: Item) -> str:
        return plain_key("_".join(part for part in (self.source_name, item.subset, item.name) if part))

    def keyed_items(self) -> list[tuple[str, Item]]:
        """Every item of `items` with its key."""
        return [(self.key(item), item) for item in self.items()]

    def audio(self, item: Item) -> Audio:
        """Read the audio of a recording. Raises OSError, RuntimeError or ValueError if that is not possible."""
        if item.content or item.bytes_at is not None:
            return read_audio(item.content or self.read_bytes(item), item.start, item.end, item.channel)
        return read_audio(self.folder / item.path, item.start, item.end, item.channel)

    def read_bytes(self, item: Item) -> bytes:
        """The bytes of an item with `bytes_at`. Raises ValueError if the file is shorter."""
        offset, size = item.bytes_at
        with (self.folder / item.path).open("rb") as stream:
            stream.seek(offset)
            content = stream.read(size)
        if len(content) < size:
            raise ValueError(f"`{item.path}` ends within this recording")
        return content

    def recording(self, key: str, item: Item) -> Recording | Skipped:
        """Read one recording; Skipped, with the reason, if that is not possible. Its audio is not checked yet."""
        if item.unusable:
            return Skipped(key, item.unusable)
        words = " ".join(item.text.split())
        if BAD_CHARACTER in words:
            return Skipped(key, "the text is not UTF-8")
        if not words and self.require_text:
            return Skipped(key, "no transcript")
        try:
            audio = self.audio(item)
        except (OSError, RuntimeError, ValueError, MemoryError) as error:  # soundfile raises RuntimeErrors
            return Skipped(key, f"unreadable: {message_of(error)}".replace(f"{self.folder}/", ""))
        return Recording(
            key, audio, words, item.speaker, item.language or self.language or self.published_language,
            self.source_name, item.license or self.license or self.published_license, item.split,
            more={"id": item.name, **item.more}, scores=item.scores,
        )  # fmt: skip

    @property
    def num_recordings(self) -> int:
        """Number of items; a container counts as one."""
        return len(self.keyed_items())

    def recordings(self) -> Iterator[Recording | Skipped]:
        for key, item in self.keyed_items():
            members = ((self.key(one), one) for one in self.each_member(item)) if item.is_container else [(key, item)]
            for member_key, member in members:
                found = self.recording(member_key, member)
                if isinstance(found, Recording) and (reason := unusable_audio(found.audio)):
                    found = Skipped(member_key, f"unreadable: {reason}")
                yield found

    def each_member(self, item: Item) -> Iterator[Item]:
        """`members`; a damaged container ends with an unusable item."""
        try:
            yield from self.members(item)
        except Exception as error:  # noqa: BLE001, files may contain anything
            reason = f"a damaged file of many recordings: {item.path}: {message_of(error)}"
            reason = reason.replace(f"{self.folder}/", "")
            yield replace(item, is_container=False, unusable=reason)

    def credits(self) -> str:
        name = self.corpus or self.folder.resolve().name
        return f"{name}, {self.folder.resolve().name}. Licence: {self.license or self.published_license}."

    def check_folder(self, layout: str) -> None:
        """Raise FileNotFoundError with the layout if the folder does not exist."""
        if not self.folder.is_dir():
            raise FileNotFoundError(f"Expected `folder` to hold {layout}, but got {self.folder}, which is no folder.")


@cache
def folder_name(folder: Path) -> str:
    """The name of the folder that a path leads to; asked for each recording."""
    return folder.resolve().name


def check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]*", name):
        raise ValueError(f"Expected `name` to hold letters, digits, `_` and `-` alone, but got {name!r}.")


def plain_key(name: str) -> str:
    """Reduce a name to ASCII letters, digits, `-` and `_`; a changed name gets a hash, because two may become equal."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
    return plain if plain == name else f"{plain}-{digest[:8]}"


def clipped(audio: Audio) -> Audio:
    """The audio within [-1, 1]: lossy decoders slightly exceed full scale. Raises ValueError if it has no samples or is
    not audio in [-1, 1]."""
    if reason := unusable_audio(audio):
        raise ValueError(reason)
    lowest, highest = audio.samples_T.aminmax()
    if lowest >= -1 and highest <= 1:
        return audio
    return Audio(audio.samples_T.clamp(-1, 1), audio.sample_rate)


def read_recording(path: Path) -> Audio:
    """Read a recording with read_audio, within [-1, 1].

    Raises ValueError if it has no samples or is not audio in [-1, 1]; soundfile's own errors propagate.
    """
    return clipped(read_audio(path))


def files_below(root: Path, suffixes: Sequence[str] = AUDIO_SUFFIXES) -> dict[str, Path]:
    """Files below `root` whose names end in one of the (lower-case) suffixes in any case, by relative path, sorted;
    also in symlinked folders. Hidden files and folders, including macOS's `._x.wav`, are left out."""
    found: dict[str, Path] = {}
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above it, or a second link to one
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix.lower() in suffixes and path.is_file():
                found[path.relative_to(root).as_posix()] = path
    return dict(sorted(found.items()))


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line of a file that is not blank. A line that is not UTF-8 has BAD_CHARACTER in
    it: it must not lose the file. Raises FileNotFoundError."""
    if not path.is_file():
        raise FileNotFoundError(f"Expected a list of recordings at `{path}`, but there is none.")
    with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield number, line.rstrip("\r\n")
