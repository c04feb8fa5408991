"""FolderSource: one's own recordings, in LJSpeech's layout or as pairs of an audio file and a text file."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from datamodules.sources.source import Recording, Skipped
from modules.api import Audio

# What libsndfile reads with a header of its own (headerless RAW is left out: its rate is unknown).
AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd"),
    *(".caf", ".w64", ".rf64", ".nist", ".sph", ".voc", ".sf", ".avr"),
)
MAX_PEAK = 2.0  # above this the samples are no floats in [-1, 1] but integers stored as floats


def unique_keys(names: Sequence[str], prefix: str = "") -> list[str]:
    """A key for every name: `prefix` and the name, with whatever is no ASCII letter, digit or `-` turned into `_`.

    Names that would share a key (also one that differs by case only, which some file systems do not tell apart) get a
    hash of the name at the end, all of them, so that a key does not depend on the order of the names.
    Raises ValueError when a name occurs twice.
    """
    if len(set(names)) != len(names):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"Expected `names` to be distinct, but got {twice[:5]} more than once.")
    plain = [prefix + re.sub(r"[^A-Za-z0-9-]", "_", name) for name in names]
    num_uses = Counter(key.casefold() for key in plain)
    return [
        key if num_uses[key.casefold()] == 1 else f"{key}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        for name, key in zip(names, plain, strict=True)
    ]


def read_audio(path: Path) -> Audio:
    """Any file that libsndfile reads, mixed to mono by the mean of its channels, at its own rate.

    Raises ValueError when it holds no samples or none that are audio in [-1, 1]; soundfile's own errors pass through.
    """
    import soundfile

    samples_TC, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    samples_T = torch.from_numpy(samples_TC).mean(dim=1)
    if samples_T.numel() == 0:
        raise ValueError("no audio samples")
    if not torch.isfinite(samples_T).all():
        raise ValueError("audio holds values that are not finite")
    peak = samples_T.abs().max().item()
    if peak > MAX_PEAK:
        raise ValueError(f"audio peaks at {peak:.0f}: expected floats in [-1, 1]")
    return Audio(samples_T.clamp(-1, 1), sample_rate)  # lossy decoders overshoot full scale a little


class FolderSource:
    """A folder with `metadata.csv` and `wavs/` (LJSpeech), or one with `x.wav` beside `x.txt`, at any depth.

    `metadata.csv` has lines `id|text|normalised text`, without a header or quoting; the last non-empty column of the
    two is the transcript. Audio is whatever libsndfile reads, at any rate and with any number of channels; the rate is
    kept, channels are mixed. Hidden files are passed over.

    Args:
        folder: Where the recordings lie. Read on first use.
        speaker: Who speaks in all of them.
        language: What they speak, as a two-letter code.
        license: Under which terms the recordings may be used, for the credits.
        require_text: Skip recordings without a transcript (what speech synthesis needs). A codec learns without:
            set it to False, and their text is "".
        split: Where all of them go, such as held_out; empty: a hash of the key holds out a tenth.

    Raises (on use):
        FileNotFoundError: There is no such folder.
        ValueError: It holds no audio, or texts are required and no recording has one.
    """

    def __init__(
        self,
        folder: Path,
        speaker: str = "",
        language: str = "en",
        license: str = "unknown",
        require_text: bool = True,
        split: str = "",
    ) -> None:
        self.folder = Path(folder)
        self.speaker = speaker
        self.language = language
        self.license = license
        self.require_text = require_text
        self.split = split

    @property
    def num_recordings(self) -> int:
        return len(self._items())

    def recordings(self) -> Iterator[Recording | Skipped]:
        items = self._items()
        keys = unique_keys([name for name, _, _ in items])
        for key, (_, path, text) in zip(keys, items, strict=True):
            yield self._recording(key, path, text)

    def credits(self) -> str:
        voice = f", speaker {self.speaker}" if self.speaker else ""
        return f"Recordings of the folder {self.folder.resolve().name}{voice}. Licence: {self.license}."

    def _recording(self, key: str, path: Path | None, text: str | Path | Skipped) -> Recording | Skipped:
        if isinstance(text, Skipped):
            return Skipped(key, text.reason)
        if path is None:
            return Skipped(key, "no audio file for this line of metadata.csv")
        try:
            words = " ".join((text.read_text("utf-8-sig") if isinstance(text, Path) else text).split())
            if not words and self.require_text:
                return Skipped(key, "no transcript")
            audio = read_audio(path)
        except (OSError, RuntimeError, ValueError) as error:  # soundfile's errors are RuntimeErrors
            return Skipped(key, " ".join(f"unreadable: {error}".replace(f"{self.folder}/", "").split()))
        source = self.folder.resolve().name
        return Recording(key, audio, words, self.speaker, self.language, source, self.license, self.split)

    def _items(self) -> list[tuple[str, Path | None, str | Path | Skipped]]:
        """Name, audio file and transcript (or the file that holds it, or why it is of no use) of every recording."""
        layouts = "`metadata.csv` with lines `id|text` beside a folder `wavs`, or pairs of `x.wav` and `x.txt`"
        if not self.folder.is_dir():
            raise FileNotFoundError(f"Expected `folder` to hold {layouts}, but got {self.folder}, which is no folder.")
        metadata = self.folder / "metadata.csv"
        items = self._listed(metadata) if metadata.is_file() else self._paired()
        if not any(path for _, path, _ in items):
            raise ValueError(f"Expected `folder` to hold {layouts}, but got {self.folder}, where no audio was found.")
        if self.require_text and not any(text for _, path, text in items if path and not isinstance(text, Skipped)):
            raise ValueError(
                f"Expected `folder` to hold {layouts}, but got {self.folder}, where no audio file has a transcript. "
                "Set `require_text` to false to use the audio alone."
            )
        return items

    def _audio_files(self, root: Path) -> dict[str, Path]:
        """Audio files below `root` by their path in it; hidden ones (also macOS's `._x.wav`) are left out."""
        paths = (path for path in sorted(root.rglob("*")) if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())
        files = {path.relative_to(root).as_posix(): path for path in paths}
        return {name: path for name, path in files.items() if not re.search(r"(^|/)\.", name)}

    def _listed(self, metadata: Path) -> list[tuple[str, Path | None, str | Path | Skipped]]:
        """The lines of metadata.csv, then the audio files that no line names."""
        files = self._audio_files(self.folder / "wavs")
        by_id = {name.rpartition(".")[0]: name for name in files} | {name: name for name in files}
        items: list[tuple[str, Path | None, str | Path | Skipped]] = []
        seen: set[str] = set()
        unlisted = dict(files)
        lines = metadata.read_text("utf-8-sig", errors="replace").split("\n")  # a bad line does not lose the file
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            name, *columns = (column.strip() for column in line.split("|"))
            text: str | Skipped = next((column for column in reversed(columns[:2]) if column), "")
            file = by_id.get(name)
            identity = file.rpartition(".")[0] if file else name
            if not name or not columns:
                text = Skipped("", f"line {number} of metadata.csv is not `id|text`")
            elif "\N{REPLACEMENT CHARACTER}" in line:
                text = Skipped("", f"line {number} of metadata.csv is not UTF-8")
            if not identity or identity in seen:
                text = (
                    text if isinstance(text, Skipped) else Skipped("", f"line {number} of metadata.csv repeats an id")
                )
                identity = f"{identity}\nline {number}"  # no id holds a line break: distinct from all of them
            seen.add(identity)
            unlisted.pop(file, None)
            items.append((identity, files.get(file), text))
        missing = Skipped("", "not in metadata.csv") if self.require_text else ""
        return items + [(name, path, missing) for name, path in unlisted.items()]

    def _paired(self) -> list[tuple[str, Path | None, str | Path | Skipped]]:
        """Every audio file with the text file of its name beside it."""
        items: list[tuple[str, Path | None, str | Path | Skipped]] = []
        seen: set[str] = set()
        for name, path in self._audio_files(self.folder).items():
            stem = name.rpartition(".")[0]
            text = path.with_suffix(".txt")
            if stem in seen:
                items.append((name, path, Skipped("", "another audio file has the same name")))
            else:
                items.append((stem, path, text if text.is_file() else ""))
            seen.add(stem)
        return items
