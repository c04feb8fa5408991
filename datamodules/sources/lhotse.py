"""LhotseSource and SharSource: Lhotse's manifests, and its tars of audio with cuts beside them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.sources.commands import fetched, refused
from datamodules.sources.json_lines import field_text, json_lines
from datamodules.sources.listed import HoldOut, Item, ListedSource, files_below
from datamodules.sources.official_splits import official_splits
from datamodules.sources.tar_members import TarMember, check_in_place, tar_members
from modules.api import Audio
from modules.audio import read_audio

MANIFESTS = (".jsonl", ".gz")
WHOLE = 0.005  # seconds; a supervision that leaves out less than that of its cut covers it


class LhotseSource(ListedSource):
    """Lhotse manifests as jsonl or jsonl.gz: recordings and supervisions (`X_supervisions_Y.jsonl.gz` beside
    `X_recordings_Y.jsonl.gz`), or cuts. Every supervision is a recording here, with its start, duration and channel.
    MultiCut, MixedCut, PaddingCut and recordings with transforms are skipped, by name. Names of files and folders state
    the splits.

    Args:
        folder: Folder to which the manifests' paths are relative (where they were made), the manifests in it or below.
        name, language, license, require_text, hold_out: As of ListedSource.
        files: Pattern of the paths of supervisions or cuts, such as `data/cuts_train*`; empty: all supervisions, or all
            cuts if there are none.
        allow_commands: Run shell commands and fetch addresses that recordings have in place of files: they can do
            anything. Otherwise such recordings are skipped.

    Raises (on use):
        FileNotFoundError: The folder, or the recordings of supervisions, do not exist.
        ValueError: There are no such manifests.
    """

    def __init__(
        self,
        folder: Path,
        name: str = "",
        language: str = "",
        license: str = "",
        require_text: bool = True,
        hold_out: HoldOut = "auto",
        files: str = "",
        allow_commands: bool = False,
    ) -> None:
        super().__init__(folder, name, language, license, require_text, hold_out)
        self.files, self.allow_commands = files, allow_commands

    def items(self) -> Iterator[Item]:
        layout = f"Lhotse manifests{f' at `{self.files}`' if self.files else ''}: supervisions and recordings, or cuts"
        self.check_folder(layout)
        listed = [name for name in files_below(self.folder, MANIFESTS) if name.endswith((".jsonl", ".jsonl.gz"))]
        kinds = [[name for name in listed if kind in PurePosixPath(name).name] for kind in ("supervisions", "cuts")]
        found = (
            [name for name in [*kinds[0], *kinds[1]] if fnmatch(name, self.files)]
            if self.files
            else kinds[0] or kinds[1]
        )
        if not found:
            raise ValueError(f"Expected `folder` to hold {layout}, but got {self.folder}, where there are none.")
        for name, split in official_splits(found).items():
            items = self._supervised(name) if "supervisions" in PurePosixPath(name).name else self._cut(name)
            for item in items:
                yield replace(item, split=split)

    def _supervised(self, name: str) -> Iterator[Item]:
        folder, slash, file = name.rpartition("/")
        recordings: dict[str, dict[str, Any]] = {}
        listed = f"{folder}{slash}{file.replace('supervisions', 'recordings')}"
        for number, record in json_lines(self.folder / listed):
            if isinstance(record, str):
                yield _bad_line(listed, number, record)
            else:
                recordings[str(record.get("id"))] = record
        for number, record in json_lines(self.folder / name):
            if isinstance(record, str):
                yield _bad_line(name, number, record)
                continue
            item, recording = _spoken(record), str(record.get("recording_id"))
            try:
                start, duration = float(record.get("start", 0)), float(record["duration"])
            except (KeyError, TypeError, ValueError):
                yield replace(item, unusable="a supervision without start and duration")
                continue
            if recording not in recordings:
                yield replace(item, unusable=f"a supervision of a recording that is not listed: {recording}")
                continue
            item = replace(item, start=max(0.0, start), end=start + duration)
            if start <= 0 and duration >= float(recordings[recording].get("duration", duration + 1)) - WHOLE:
                item = replace(item, start=0.0, end=None)
            yield self._placed(item, recordings[recording], record.get("channel", 0))

    def _cut(self, name: str) -> Iterator[Item]:
        for number, cut in json_lines(self.folder / name):
            if isinstance(cut, str):
                yield _bad_line(name, number, cut)
                continue
            for item in cut_items(cut):
                if item.unusable or not isinstance(cut.get("recording"), dict):
                    yield replace(item, unusable=item.unusable or "a cut without a recording")
                    continue
                first, length = cut["start"], cut["duration"]
                end = first + (length if item.end is None else item.end)
                if not first and item.end is None and length >= float(cut["recording"].get("duration", 0)) - WHOLE:
                    end = None
                item = replace(item, start=first + item.start, end=end)
                yield self._placed(item, cut["recording"], cut.get("channel", 0))

    def _placed(self, item: Item, recording: dict[str, Any], channels: int | Sequence[int]) -> Item:
        """The item with the file of its channel; unusable if it is none that can be read as it is."""
        if transforms := recording.get("transforms"):
            names = ", ".join(str(one.get("name")) if isinstance(one, dict) else str(one) for one in transforms)
            return replace(item, unusable=f"a recording with transforms, which its file lacks: {names}")
        wanted = [channels] if isinstance(channels, int) else list(channels)
        if len(wanted) != 1:
            return replace(item, unusable=f"a supervision of several channels: {wanted}")
        for source in recording.get("sources", []):
            held = source.get("channels", [0])
            if wanted[0] in held:
                kind, path = source.get("type"), str(source.get("source"))
                channel = held.index(wanted[0]) if len(held) > 1 else None
                path = {"file": path, "url": path, "command": f"{path} |"}.get(kind, "")
                reason = "" if path else f"a recording whose source is neither a file, a command nor a url: {kind}"
                if kind == "url" or kind == "command":
                    reason = "" if self.allow_commands else f"a recording of type {kind}: {refused(path) or path}"
                return replace(item, path=path, channel=channel, unusable=reason)
        return replace(item, unusable=f"a recording without a source for channel {wanted[0]}")

    def audio(self, item: Item) -> Audio:
        if refused(item.path) and self.allow_commands:
            return read_audio(fetched(item.path, self.folder), item.start, item.end, item.channel)
        return super().audio(item)


class SharSource(ListedSource):
    """Lhotse Shar: cuts.000000.jsonl(.gz) beside recording.000000.tar, in the folder and below it. Line i of the cuts
    belongs to the i-th pair of audio and json in the tar. Names of folders state the splits.

    Args:
        folder, name, language, license, require_text, hold_out: As of ListedSource.
        in_place: Leave the audio in the tars and index it there; needs tars without compression.

    Raises (on use):
        FileNotFoundError: The folder does not exist.
        ValueError: It has no such files, or `in_place` and compressed tars.
    """

    def __init__(
        self,
        folder: Path,
        name: str = "",
        language: str = "",
        license: str = "",
        require_text: bool = True,
        hold_out: HoldOut = "auto",
        in_place: bool = True,
    ) -> None:
        super().__init__(folder, name, language, license, require_text, hold_out)
        self.in_place = in_place

    def items(self) -> Iterator[Item]:
        layout = "Lhotse Shar, cuts.000000.jsonl.gz beside recording.000000.tar"
        self.check_folder(layout)
        found = [
            name for name in files_below(self.folder, MANIFESTS) if fnmatch(PurePosixPath(name).name, "cuts.*.jsonl*")
        ]
        if not found:
            raise ValueError(f"Expected `folder` to hold {layout}, but got {self.folder}, where there is none.")
        if self.in_place:
            check_in_place([path for name in found if (path := self.folder / self._tar(name)).is_file()])
        split_of = official_splits(sorted({str(PurePosixPath(name).parent) for name in found}))
        for name in found:
            yield Item(name, name, split=split_of[str(PurePosixPath(name).parent)], is_container=True)

    def _tar(self, cuts: str) -> str:
        path = PurePosixPath(cuts)
        number = path.name.split(".")[1]
        whole = path.with_name(f"recording.{number}.tar")
        zipped = path.with_name(f"recording.{number}.tar.gz")
        return str(zipped if not (self.folder / whole).is_file() and (self.folder / zipped).is_file() else whole)

    def members(self, item: Item) -> Iterator[Item]:
        tar = self._tar(item.path)
        audio = _audio_members(tar_members([self.folder / tar], lambda name: False))
        for number, cut in json_lines(self.folder / item.path):
            member = next(audio, None)
            if isinstance(cut, str):
                yield _bad_line(item.path, number, cut)
                continue
            for found in cut_items(cut):
                found = replace(found, path=tar, split=item.split)
                if member is None or member.name.endswith(".nodata"):
                    missing = "no audio in the tar (.nodata)" if member else "the tar ends before the cuts"
                    yield replace(found, unusable=found.unusable or missing)
                elif PurePosixPath(member.name).with_suffix("") != PurePosixPath(str(cut.get("id"))):
                    yield replace(found, unusable=f"the tar and the cuts are not in step: {member.name}")
                else:
                    yield replace(found, bytes_at=member.bytes_at, content=member.content)
        if next(audio, None) is not None:
            raise ValueError("the cuts end before the tar")


def _audio_members(members: Iterator[TarMember]) -> Iterator[TarMember]:
    """Every other member: each audio file is followed by its json, .nodata by .nometa."""
    for number, member in enumerate(members):
        if number % 2 == 0:
            yield member


def cut_items(cut: dict[str, Any]) -> Iterator[Item]:
    """Every supervision of a cut, with an item whose start and end are seconds of the cut (0 and None: the whole cut).
    A cut without any gives one item without text; a cut of several tracks or channels, or of padding, an unusable one.
    """
    name, kind = field_text(cut, "id"), cut.get("type", "MonoCut")
    supervisions = cut.get("supervisions") or []
    if kind != "MonoCut":
        yield Item(name, unusable=f"a cut that is no part of one recording: {kind}")
        return
    if not all(isinstance(cut.get(field), int | float) for field in ("start", "duration")):
        yield Item(name, unusable="a cut without start and duration")
        return
    if not supervisions:
        yield Item(name)
    for supervision in supervisions:
        item = replace(_spoken(supervision), name=name)
        if len(supervisions) > 1:
            item = replace(item, name=f"{name}-{field_text(supervision, 'id')}")
        try:
            start, duration = float(supervision.get("start", 0)), float(supervision["duration"])
        except (KeyError, TypeError, ValueError):
            yield replace(item, unusable="a supervision without start and duration")
            continue
        if start > WHOLE or start + duration < cut["duration"] - WHOLE:
            item = replace(item, start=max(0.0, start), end=min(start + duration, cut["duration"]))
        yield item


def _spoken(supervision: dict[str, Any]) -> Item:
    return Item(
        field_text(supervision, "id"), text=field_text(supervision, "text"), speaker=field_text(supervision, "speaker"),
        language=field_text(supervision, "language"),
        more={"gender": gender} if (gender := field_text(supervision, "gender")) else {},
    )  # fmt: skip


def _bad_line(manifest: str, number: int, reason: str) -> Item:
    return Item(f"{manifest} line {number}", manifest, unusable=f"{reason}: line {number}")
