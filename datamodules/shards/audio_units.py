"""Units of audio: recordings read, checked, resampled, measured and written to the tars of one unit."""

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from datamodules.shards.corpus_index import EXAMPLES_PER_REASON, EnoughUnits
from datamodules.shards.plan import UNUSABLE_KEY, HoldOutRule, Plan, UsedKeys, printable, split_of_member
from datamodules.shards.processes import Control
from datamodules.shards.quality import QualityControl
from datamodules.shards.shards import held_out, usable_key
from datamodules.shards.stored_arrays import npy
from datamodules.shards.texts import comparable
from datamodules.shards.units import SplitRows, UnitFolder, UnitResult, UnitTars, work_through
from datamodules.sources.listed import Item, ListedSource
from datamodules.sources.source import Recording, Skipped, Source, peak_of
from modules.api import Audio, SpeechStates
from modules.audio import encoded, resampled

SILENCE_PEAK = 1e-3  # full scale is 1; below this a recording counts as silent
SHORTEST_SECONDS = 0.05
EXAMPLE_SECONDS = 10


@dataclass(frozen=True)
class PreparationSettings:
    """What shards hold beside their recordings. `hours` of usable audio are enough (0: all)."""

    sample_rate: int
    audio_format: str = "flac"
    samples_per_shard: int = 1000
    semantic: SpeechStates | None = None
    quality: QualityControl | None = None
    hours: float = 0.0

    def about(self) -> dict[str, Any]:
        """As JSON, for the marker and the shards' header."""
        about: dict[str, Any] = {"sample_rate": self.sample_rate, "audio_format": self.audio_format}
        if self.semantic is not None:
            about["semantic"] = self.semantic.encode_settings
        if self.quality is not None and (thresholds := self.quality.threshold_settings()):
            about["quality"] = thresholds
        if self.hours:
            about["hours"] = self.hours
        return about


@dataclass
class AudioUnits:
    """Does units of a plan. Can be pickled to worker processes."""

    sources: Sequence[Source]
    units: UnitFolder
    settings: PreparationSettings
    plan: Plan

    def do_all(self, units: Sequence[str], waits: bool, control: Control) -> None:
        """Do all units that are neither done nor in work elsewhere; `waits` for those."""
        enough = EnoughUnits(self.units, list(self.plan.units), self.settings)
        work_through(self.units, units, lambda unit: self.do(unit, control), waits, enough.needs, control.stops)

    def do(self, unit: str, control: Control) -> None:
        """Do one unit; nothing of it is kept if `control` stops it, or if the job has been merged without it."""
        try:
            self._do(unit, control)
        except FileNotFoundError:
            if self.units.plan_path.is_file():
                raise

    def _do(self, unit: str, control: Control) -> None:
        result = UnitResult()
        with UnitTars(self.units, unit, self.settings.samples_per_shard) as tars:
            writer = UnitWriter(self.settings, self.units, tars, result)
            for found, item, source in self._recordings(unit):
                control.add(writer.write(found, item, source))
                if control.stops():
                    return
            targets = {path: self.units.folder / split / tar for path, (split, tar) in tars.close().items()}
            self.units.finish(unit, result, targets)

    def _recordings(self, unit: str) -> Iterator[tuple[Any, Item | None, Source]]:
        """Every recording of a unit with its final key and split."""
        if unit == self.plan.stream_unit:
            keys = UsedKeys(several_sources=len(self.sources) > 1)
            for number in self.plan.streams:
                source = self.sources[number]
                yield from ((_keyed(found, keys), None, source) for found in source.recordings())
            return
        for planned in self.plan.items(self.units.state, unit):
            source = self.sources[planned.source]
            assert isinstance(source, ListedSource)
            if not planned.item.is_container:
                yield source.recording(planned.key, planned.item), planned.item, source
                continue
            rule = HoldOutRule(**self.plan.rules[str(planned.source)])
            seen: set[str] = set()
            for member in source.each_member(planned.item):
                key = source.key(member)
                if key in seen:
                    yield Skipped(key, "another recording has this key"), member, source
                    continue
                seen.add(key)
                member = replace(member, split=split_of_member(rule, source, member, key))
                yield source.recording(key, member), member, source


def _keyed(found: Any, keys: UsedKeys) -> Any:
    """A recording of a source that lists none, with its key in this preparation and its split."""
    if not isinstance(found, Recording) or not usable_key(found.key):
        return found
    key, reason = keys.key(found.key, found.prefix, printable(found.source))
    if reason:
        return Skipped(printable(key), reason)
    # Uses the source's own key, so that the held-out set does not depend on the other sources.
    return replace(found, key=key, split=found.split or ("held_out" if held_out(found.key) else "train"))


class UnitWriter:
    """Writes the recordings of one unit: into tars, or as references where a tar of others holds them."""

    def __init__(self, settings: PreparationSettings, units: UnitFolder, tars: UnitTars, result: UnitResult) -> None:
        self.settings, self.units, self.tars, self.result = settings, units, tars, result
        self.quality = settings.quality or QualityControl()
        self._num_examples: dict[str, int] = {}

    def write(self, found: Any, item: Item | None, source: Source) -> float:
        """Write one item of a source. Returns its seconds, 0 if it was skipped. Never raises for what a corpus may
        hold."""
        samples = usable_samples(found, self.settings.sample_rate)
        if isinstance(samples, Skipped):
            self.result.skipped.append((samples.key, samples.reason))
            return 0.0
        samples = self.quality.cut(samples, self.settings.sample_rate)
        measures = self.quality.examine(samples, self.settings.sample_rate, found.text, printable(found.language))
        if reason := self.quality.refusal(measures):
            self.result.skipped.append((found.key, reason))
            self._keep_example(reason, found, samples)
            return 0.0
        scores = {f"published_{name}" if name in measures else name: score for name, score in found.scores.items()}
        self._add(found, samples, {**measures, **scores}, item, source)
        return len(samples) / self.settings.sample_rate

    def _add(
        self, recording: Recording, samples: np.ndarray, measures: dict[str, float], item: Item | None, source: Source
    ) -> None:
        about = metadata(recording, len(samples) / self.settings.sample_rate)
        row: dict[str, Any] = {"abouts": ""}
        if item is not None and self._stays(item, source):
            row["offsets"], row["sizes"] = item.bytes_at
            path = (source.folder / item.path).resolve()
            row["paths"] = os.path.relpath(path, (self.units.folder / recording.split).resolve())
            row["abouts"] = json.dumps(about)
        else:
            files = {self.settings.audio_format: self._encoded(samples), "json": json.dumps(about).encode()}
            if self.settings.semantic is not None:
                files["states.npy"] = npy(_states(self.settings.semantic, samples))
            row["paths"], row["offsets"], row["sizes"] = self.tars.write(recording.split, recording.key, files)
        row |= {"keys": recording.key, "lengths": len(samples), "text_lengths": len(recording.text.encode())}
        row |= {name: about[name[:-1]] for name in ("sources", "speakers", "languages", "licenses")}
        # Every 16th sample tells recordings apart as well as all do, in a small part of the time.
        row["contents"] = hashlib.sha256(samples[::16].tobytes()).hexdigest()[:16]
        row["texts"] = hashlib.sha256(comparable(recording.text).encode()).hexdigest()[:16] if recording.text else ""
        self.result.splits.setdefault(recording.split, SplitRows()).add(row, measures)

    def _stays(self, item: Item, source: Source) -> bool:
        """Whether the audio is left in the tar that holds it."""
        is_whole = item.bytes_at is not None and not item.start and item.end is None and item.channel is None
        is_cut = self.quality.max_seconds and self.quality.long == "cut"
        in_place = isinstance(source, ListedSource) and source.in_place
        return bool(in_place and is_whole and not is_cut and self.settings.semantic is None)

    def _encoded(self, samples: np.ndarray) -> bytes:
        return encoded(Audio(torch.from_numpy(samples), self.settings.sample_rate), self.settings.audio_format)

    def _keep_example(self, reason: str, recording: Recording, samples: np.ndarray) -> None:
        kind = reason.partition(":")[0]
        self._num_examples[kind] = self._num_examples.get(kind, 0) + 1
        if self._num_examples[kind] <= EXAMPLES_PER_REASON:
            rate = self.settings.sample_rate
            audio = Audio(torch.from_numpy(samples[: EXAMPLE_SECONDS * rate]), rate)
            flac = base64.b64encode(encoded(audio, "flac")).decode()
            example = {"key": recording.key, "reason": reason, "text": recording.text, "flac": flac}
            self.result.examples.append({**example, "speaker": printable(recording.speaker)})


def usable_audio(recording: Recording, sample_rate: int) -> np.ndarray | str:
    """Return float32 samples at `sample_rate`, or the reason why there are none."""
    peak = peak_of(recording.audio)
    if isinstance(peak, str):
        return peak
    if peak < SILENCE_PEAK:
        return "silent"
    samples = resampled(recording.audio, sample_rate)
    if samples.size < sample_rate * SHORTEST_SECONDS:
        return "shorter than 50 ms"
    return np.clip(samples, -1, 1) if max(samples.max(), -samples.min()) > 1 else samples


def usable_samples(item: Any, sample_rate: int) -> np.ndarray | Skipped:
    """Return float32 samples at `sample_rate` of any source's item, or why it is skipped. Never raises."""
    if isinstance(item, Skipped):
        return Skipped(printable(item.key), printable(item.reason))
    if not isinstance(item, Recording):
        return Skipped("", f"no Recording: {type(item).__name__}")
    if not usable_key(item.key):
        return Skipped(printable(item.key), UNUSABLE_KEY)
    if not isinstance(item.text, str) or printable(item.text) != item.text:
        return Skipped(item.key, f"text is no string of Unicode: {type(item.text).__name__}")
    if item.split and not usable_key(item.split):
        return Skipped(item.key, f"split is no plain name: {printable(item.split)}")
    try:
        samples = usable_audio(item, sample_rate)
    except (MemoryError, RuntimeError, ValueError, TypeError) as error:
        return Skipped(item.key, printable(f"unreadable: {error}"))
    return Skipped(item.key, samples) if isinstance(samples, str) else samples


def metadata(recording: Recording, seconds: float) -> dict[str, Any]:
    """The json of a sample."""
    labels = {name: printable(getattr(recording, name)) for name in ("speaker", "language", "source", "license")}
    scores = {"scores": dict(recording.scores)} if recording.scores else {}
    about = {"text": recording.text, **labels, "duration": seconds, **scores}
    return about | {name: value for name, value in recording.more.items() if name not in about}


def _states(semantic: SpeechStates, samples: np.ndarray) -> np.ndarray:
    """Return (S, C) float16."""
    audio_BT = torch.from_numpy(samples)[None]
    return semantic(audio_BT, torch.tensor([len(samples)])).latent_BSC[0].half().numpy()
