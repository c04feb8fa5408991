"""KaldiSource: data directories with wav.scp, text, utt2spk and segments."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from datamodules.sources.commands import fetched, refused
from datamodules.sources.listed import BAD_CHARACTER, HoldOut, Item, ListedSource, read_lines
from datamodules.sources.official_splits import official_splits
from modules.api import Audio
from modules.audio import read_audio

WAVE_HEADER = 8  # bytes: RIFF and the size of what follows


class KaldiSource(ListedSource):
    """Kaldi data directories: wav.scp (`id path`), text (`utterance words`), optional segments (`utterance recording
    start end`, end -1: to the end), utt2spk, utt2lang and spk2gender, in any order. Without segments an utterance is a
    recording. Paths are relative to `folder`, where Kaldi's recipe ran. `file.ark:1234` is a wav at that byte. Names of
    directories state the splits.

    Args:
        folder, name, language, license, require_text, hold_out: As of ListedSource.
        directories: Data directories in the folder, such as [data/train, data/dev]; empty: those with a wav.scp in the
            folder, else one below it or below its `data` (not the parts that `split_data.sh` makes of them).
        allow_commands: Run the shell commands that wav.scp has in place of paths (`sox in.sph -t wav - |`): they can do
            anything. Otherwise such recordings are skipped.

    Raises (on use):
        FileNotFoundError: The folder, or a data directory's wav.scp, does not exist.
        ValueError: There is no data directory.
    """

    def __init__(
        self,
        folder: Path,
        name: str = "",
        language: str = "",
        license: str = "",
        require_text: bool = True,
        hold_out: HoldOut = "auto",
        directories: Sequence[str] = (),
        allow_commands: bool = False,
    ) -> None:
        super().__init__(folder, name, language, license, require_text, hold_out)
        self.directories, self.allow_commands = list(directories), allow_commands

    def items(self) -> Iterator[Item]:
        self.check_folder("a Kaldi data directory, with wav.scp")
        for directory, split in official_splits(self.directories or self._found()).items():
            subset = directory.removeprefix("data/").replace("/", "_").strip("._")
            for item in self._utterances(directory):
                yield replace(item, split=split, subset=subset)

    def _found(self) -> list[str]:
        for pattern in ("wav.scp", "*/wav.scp", "data/*/wav.scp"):
            if found := sorted(self.folder.glob(pattern)):
                return [path.parent.relative_to(self.folder).as_posix() for path in found]
        raise ValueError(f"Expected {self.folder} or a folder in it to hold wav.scp, but there is none.")

    def _utterances(self, directory: str) -> Iterator[Item]:
        place = self.folder / directory
        recordings, bad_lines = table(place / "wav.scp")
        texts, bad_texts = table(place / "text", optional=not self.require_text)
        speakers, languages, genders = (
            table(place / name, optional=True)[0] for name in ("utt2spk", "utt2lang", "spk2gender")
        )
        for file, lines in (("wav.scp", bad_lines), ("text", bad_texts)):
            for number, reason in lines:
                yield Item(
                    f"{file} line {number}", f"{directory}/{file}", unusable=f"{reason} of {file}: line {number}"
                )
        if (place / "segments").is_file():
            utterances, bad_segments = table(place / "segments")
            for number, reason in bad_segments:
                yield Item(f"segments line {number}", unusable=f"{reason} of segments: line {number}")
        else:
            utterances = {name: name for name in recordings}
        for name, segment in utterances.items():
            speaker = speakers.get(name, "")
            more = {"gender": genders[speaker]} if speaker in genders else {}
            item = Item(name, "", texts.get(name, ""), speaker, languages.get(name, ""), more=more)
            yield self._placed(item, segment, recordings)
        for name in sorted(texts.keys() - utterances.keys()):
            yield Item(name, unusable="a line of text without a recording")

    def _placed(self, item: Item, segment: str, recordings: dict[str, str]) -> Item:
        """The item with its file and cut; `segment`: a recording's id, or that and start and end."""
        recording, *times = segment.split()
        start, end = 0.0, None
        if times:
            try:
                start, end = float(times[0]), float(times[1])
            except (ValueError, IndexError):
                return replace(
                    item, unusable=f"a line of segments that is not `utterance recording start end`: {segment}"
                )
            end = None if end == -1 else end
            if not 0 <= start < (float("inf") if end is None else end):
                return replace(item, unusable=f"a segment that cuts nothing: {segment}")
        if recording not in recordings:
            return replace(item, unusable=f"a segment of a recording that wav.scp lacks: {recording}")
        path = recordings[recording].strip()
        reason = "" if self.allow_commands else refused(path)
        archive, _, offset = path.rpartition(":")
        if archive.endswith(".ark") and offset.isdecimal():  # the header there states the size
            return replace(item, path=archive, bytes_at=(int(offset), 0), start=start, end=end, unusable=reason)
        return replace(item, path=path, start=start, end=end, unusable=reason)

    def audio(self, item: Item) -> Audio:
        if refused(item.path) and self.allow_commands:
            return read_audio(fetched(item.path, self.folder), item.start, item.end, item.channel)
        return super().audio(item)

    def read_bytes(self, item: Item) -> bytes:
        """The wav at a byte of an archive."""
        offset = item.bytes_at[0]
        with (self.folder / item.path).open("rb") as stream:
            stream.seek(offset)
            header = stream.read(WAVE_HEADER)
            if header[:4] != b"RIFF":
                raise ValueError(f"no wav at this place of an archive, `{PurePosixPath(item.path).name}:{offset}`")
            return header + stream.read(int.from_bytes(header[4:], "little"))


def table(path: Path, optional: bool = False) -> tuple[dict[str, str], list[tuple[int, str]]]:
    """What follows the first word of each line, by that word, "" if nothing does; and number and reason of lines that
    cannot be used. Raises FileNotFoundError unless `optional`."""
    found: dict[str, str] = {}
    bad: list[tuple[int, str]] = []
    if optional and not path.is_file():
        return found, bad
    for number, line in read_lines(path):
        name, *rest = line.split(None, 1)
        if BAD_CHARACTER in line:
            bad.append((number, "a line that is not UTF-8"))
        elif name in found:
            bad.append((number, "a line that repeats an id"))
        else:
            found[name] = rest[0] if rest else ""
    return found, bad
