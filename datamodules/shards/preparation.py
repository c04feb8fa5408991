"""Prepares audio shards from recordings: resampled, checked, split, indexed."""

import fcntl
import hashlib
import inspect
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.shards.shards import ShardIndex, ShardWriter, held_out, usable_key
from datamodules.sources.source import Recording, Skipped, Source, unusable_audio
from modules.api import Audio, SpeechStates, check_members
from modules.audio import encoded, resampled

UNUSABLE_KEY = "key is empty or holds a dot, slash or space"
MARKER = "prepared.json"  # in a prepared folder: its sources and splits
SILENCE_PEAK = 1e-3  # full scale is 1; below this a recording counts as silent


def prepare_audio_shards(
    sources: Sequence[Source],
    folder: Path,
    sample_rate: int,
    audio_format: str = "flac",
    samples_per_shard: int = 1000,
    semantic: SpeechStates | None = None,
) -> dict[str, ShardIndex]:
    """Convert sources to `folder/SPLIT` audio shards; does nothing if they exist already.

    With `semantic`, its states of each whole recording are stored with the audio: KEY.states.npy, (S, C) float16.

    An unusable recording is skipped, counted and listed in the index's report; it never stops the run. The shards are
    written next to `folder` and moved there when complete; nothing in `folder` is ever removed. Of several processes
    that prepare one folder, one does, and the others wait and use the result.
    Raises ValueError if a source lacks a member, if the folder was prepared from other sources or settings or contains
    something else, or if nothing is usable.
    """
    for source in sources:
        check_members(source, Source, "source")
    about: dict[str, Any] = {"sample_rate": sample_rate, "audio_format": audio_format}
    if semantic is not None:
        about["semantic"] = semantic.encode_settings
    splits = _prepared_splits(folder, about, sources)
    if splits is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            splits = _prepared_splits(folder, about, sources) or _prepare(
                sources, folder, about, samples_per_shard, semantic
            )
    return {split: ShardIndex.load(folder / split, "audio") for split in splits}


def _prepared_splits(folder: Path, about: dict[str, Any], sources: Sequence[Source]) -> list[str] | None:
    """Return the splits of a prepared folder; None if there is none yet. Raises ValueError if it contains anything
    else."""
    marker = folder / MARKER
    if marker.is_file():
        prepared = json.loads(marker.read_text())
        described = [_describe(one, before) for one, before in zip_longest(sources, prepared.get("sources", []))]
        about = {**about, "sources": described}
        if {name: prepared.get(name) for name in about} != about:
            raise ValueError(
                f"Expected `{folder}` to be prepared from {about}, but it was prepared from {prepared}. "
                "Name another folder, or remove this one to prepare it anew."
            )
        return prepared["splits"]
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"Expected `folder` to be new, empty or prepared shards, but `{folder}` holds other files.")
    return None


def _prepare(
    sources: Sequence[Source],
    folder: Path,
    about: dict[str, Any],
    samples_per_shard: int,
    semantic: SpeechStates | None,
) -> list[str]:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        whole = Path(scratch) / folder.name
        keyed = _Keyed(several_sources=len(sources) > 1)
        splits = _write_splits(sources, whole, about, samples_per_shard, semantic, keyed)
        (whole / "CREDITS.txt").write_text("\n\n".join(source.credits() for source in sources))
        described = {**about, "sources": [_describe(source) for source in sources], "splits": splits}
        (whole / MARKER).write_text(json.dumps(described, indent=1))
        try:
            whole.replace(folder)
        except OSError:  # a file system without locks, where another process was faster
            appeared = _prepared_splits(folder, about, sources)
            if appeared is None:
                raise
            print(f"{folder}: another process has prepared it meanwhile; its shards are used")
            return appeared
    for split in splits:
        index = ShardIndex.load(folder / split, "audio")
        minutes = index.lengths.sum() / about["sample_rate"] / 60
        print(f"{folder}/{split}: {len(index)} recordings, {minutes:.1f} minutes")
    print(skip_report(keyed.skipped, len(keyed.source_of) + len(keyed.skipped)))
    return splits


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock `folder` against all processes, of all nodes that share the file system, that prepare it."""
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: waiting for another process that prepares it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough while a forked child has the file open


def skip_report(skipped: Sequence[Skipped], num_recordings: int) -> str:
    """Summarise how many recordings were skipped and why: a line per reason (up to its colon), the most common first,
    with the first keys."""
    by_reason: dict[str, list[Skipped]] = {}
    for item in skipped:
        by_reason.setdefault(item.reason.partition(":")[0], []).append(item)
    lines = [f"skipped {len(skipped)} of {num_recordings} recordings" + (":" if skipped else "")]
    for reason, items in sorted(by_reason.items(), key=lambda pair: -len(pair[1])):
        detail = items[0].reason.removeprefix(reason)
        lines.append(f"  {len(items)} x {reason}, such as {items[0].key!r}{detail}")
    return "\n".join(lines)


def usable_audio(recording: Recording, sample_rate: int) -> np.ndarray | str:
    """Return float32 samples at `sample_rate`, or the reason why there are none."""
    reason = unusable_audio(recording.audio)
    if reason:
        return reason
    samples = recording.audio.samples_T.detach().cpu().float().numpy()
    if np.abs(samples).max() < SILENCE_PEAK:
        return "silent"
    samples = resampled(recording.audio, sample_rate)
    if samples.size < sample_rate // 20:
        return "shorter than 50 ms"
    return np.clip(samples, -1, 1)


def usable_samples(item: Any, sample_rate: int) -> np.ndarray | Skipped:
    """Return float32 samples at `sample_rate` of any source's item, or why it is skipped. Never raises."""
    if isinstance(item, Skipped):
        return Skipped(_printable(item.key), _printable(item.reason))
    if not isinstance(item, Recording):
        return Skipped("", f"no Recording: {type(item).__name__}")
    if not usable_key(item.key):
        return Skipped(_printable(item.key), UNUSABLE_KEY)
    if not isinstance(item.text, str) or _printable(item.text) != item.text:
        return Skipped(item.key, f"text is no string of Unicode: {type(item.text).__name__}")
    if item.split and not usable_key(item.split):
        return Skipped(item.key, f"split is no plain name: {_printable(item.split)}")
    try:
        samples = usable_audio(item, sample_rate)
    except (MemoryError, RuntimeError, ValueError, TypeError) as error:
        return Skipped(item.key, _printable(f"unreadable: {error}"))
    return Skipped(item.key, samples) if isinstance(samples, str) else samples


def _printable(value: Any) -> str:
    """Convert to a string that UTF-8 can encode; "" for None."""
    return "" if value is None else str(value).encode(errors="backslashreplace").decode()


def _plain_name(name: str) -> str:
    """Reduce a name to ASCII letters, digits, `-` and `_`; a changed name gets a hash, because two may become equal."""
    plain = re.sub(r"[^A-Za-z0-9-]", "_", name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@dataclass
class _Keyed:
    """Keys of a preparation with the `source` of each, and skipped items."""

    several_sources: bool
    source_of: dict[str, str] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    def key(self, recording: Recording) -> str | Skipped:
        """Return the recording's own key, with its prefix if there are several sources, or with its source's name if
        another source has the same key."""
        key = recording.key
        if self.several_sources and recording.prefix:
            key = f"{recording.prefix}_{key}"
        source = _printable(recording.source)
        if self.source_of.get(key, source) != source:
            key = f"{_plain_name(source)}_{recording.key}"
        if not usable_key(key):
            return Skipped(_printable(key), UNUSABLE_KEY)
        if key in self.source_of:
            hint = f": `name` tells sources apart, both are {source!r}" if self.several_sources else ""
            return Skipped(key, f"another recording has this key{hint}")
        self.source_of[key] = source
        return key


def _write_splits(
    sources: Sequence[Source],
    folder: Path,
    header: dict[str, Any],
    samples_per_shard: int,
    semantic: SpeechStates | None,
    keyed: _Keyed,
) -> list[str]:
    from tqdm import tqdm

    sample_rate, audio_format = header["sample_rate"], header["audio_format"]
    writers: dict[str, ShardWriter] = {}
    with ExitStack() as stack:
        progress = stack.enter_context(
            tqdm(
                total=sum(source.num_recordings for source in sources),
                desc=f"preparing {folder.name}",
                unit="recording",
            )
        )
        for item in (item for source in sources for item in source.recordings()):
            progress.update()
            samples = usable_samples(item, sample_rate)
            key = samples if isinstance(samples, Skipped) else keyed.key(item)
            if isinstance(key, Skipped):
                keyed.skipped.append(key)
                continue
            # Uses the source's own key, so that the held-out set does not depend on the other sources.
            split = item.split or ("held_out" if held_out(item.key) else "train")
            if split not in writers:
                writers[split] = stack.enter_context(ShardWriter(folder / split, "audio", header, samples_per_shard))
            files = _files(item, samples, sample_rate, audio_format)
            if semantic is not None:
                files["states.npy"] = _states(semantic, samples)
            writers[split].write(key, files, len(samples), item.text)
        if not writers:
            report = skip_report(keyed.skipped, len(keyed.skipped))
            raise ValueError(f"Expected at least one usable recording, but got none. {' '.join(report.split())}.")
        first = writers.get("train", next(iter(writers.values())))
        for item in keyed.skipped:
            first.skip(item.key, item.reason)
    return sorted(writers)


def _files(recording: Recording, samples: np.ndarray, sample_rate: int, audio_format: str) -> dict[str, Any]:
    metadata = {
        "text": recording.text,
        "speaker": _printable(recording.speaker),
        "language": _printable(recording.language),
        "source": _printable(recording.source),
        "license": _printable(recording.license),
        "duration": len(samples) / sample_rate,
    }
    return {audio_format: encoded(Audio(torch.from_numpy(samples), sample_rate), audio_format), "json": metadata}


def _states(semantic: SpeechStates, samples: np.ndarray) -> np.ndarray:
    """Return (S, C) float16."""
    audio_BT = torch.from_numpy(samples)[None]
    return semantic(audio_BT, torch.tensor([len(samples)])).latent_BSC[0].half().numpy()


def _describe(source: Source | None, before: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """Describe the source's class and public settings as JSON. Omits settings at their default that are missing in
    `before`, an earlier description: arguments that were added later."""
    if source is None:
        return None
    arguments = inspect.signature(type(source)).parameters
    settings = {}
    for name, value in vars(source).items():
        is_newer = isinstance(before, dict) and name not in before and name in arguments
        if name.startswith("_") or (is_newer and value == arguments[name].default):
            continue
        known = before.get(name) if isinstance(before, dict) else None
        settings[name] = _describe(value, known) if hasattr(value, "recordings") else value
    return json.loads(json.dumps({"class": type(source).__name__, **settings}, default=str))
