"""Prepares audio shards from recordings: resampled, checked, split, indexed, by one process or many.

Listing -> plan.json (datamodules/shards/plan.py) -> units (datamodules/shards/units.py) -> merge
(datamodules/shards/corpus_index.py). The result depends neither on the number of processes, nor on their order or
machine.
"""

import inspect
import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from datamodules.shards.audio_units import AudioUnits, PreparationSettings
from datamodules.shards.corpus_index import EnoughUnits, judge, merge_units
from datamodules.shards.plan import Plan, write_plan
from datamodules.shards.processes import Progress, run_processes
from datamodules.shards.quality import QualityControl
from datamodules.shards.shards import ShardIndex
from datamodules.shards.units import NAME, UnitFolder
from datamodules.sources.source import Source
from modules.api import SpeechStates
from modules.atomic_file import write_whole
from modules.members import check_members

MARKER = "prepared.json"  # in a prepared folder: its sources and splits
SAMPLED_UNIT = 100  # recordings of a unit where `hours` bounds a preparation: less work beyond the bound


def prepare_audio_shards(
    sources: Sequence[Source],
    folder: Path,
    sample_rate: int,
    audio_format: str = "flac",
    samples_per_shard: int = 1000,
    semantic: SpeechStates | None = None,
    quality: QualityControl | None = None,
    hours: float = 0.0,
    num_processes: int = 1,
    share: tuple[int, int] = (0, 1),
) -> dict[str, ShardIndex]:
    """Convert sources to `folder/SPLIT` audio shards; does nothing if they exist already.

    An unusable recording is skipped, counted and listed in the index's report; it never stops the run. A killed
    preparation resumes: finished units are kept. Processes that prepare one folder at once share the units.

    Args:
        samples_per_shard: Recordings of a unit of work, and at most of a tar file.
        semantic: Its states of each whole recording are stored with the audio: KEY.states.npy, (S, C) float16.
        quality: Thresholds beyond those for unusable audio; None: the defaults.
        hours: Enough hours of usable audio, chosen by the hash of their keys; 0: all.
        num_processes: Processes of this machine; 1 while `semantic` computes states.
        share: (k, n): this call does units k, k + n, k + 2n, ...; whichever call does the last unit merges all.

    Returns the index of every split; {} if other shares are not done yet.
    Raises ValueError if a source lacks a member, if the folder was prepared from other sources or settings or contains
    something else, or if nothing is usable.
    """
    for source in sources:
        check_members(source, Source, "source")
    settings = PreparationSettings(sample_rate, audio_format, samples_per_shard, semantic, quality, hours)
    splits, units = _prepared_splits(folder, settings, sources), UnitFolder(folder)
    if splits is None:
        splits = _prepare(sources, units, settings, num_processes if semantic is None else 1, share)
    else:
        if units.state.is_dir():
            units.remove()  # left by a kill at the very end
        splits = _judged_again(units, settings, splits)
    return {split: ShardIndex.load(folder / split, "audio") for split in splits}


def _prepared_splits(folder: Path, settings: PreparationSettings, sources: Sequence[Source]) -> list[str] | None:
    """Return the splits of a prepared folder; None if there are none yet. Raises ValueError if it contains anything
    else."""
    marker, plan = folder / MARKER, folder / NAME / "plan.json"
    if marker.is_file():
        prepared = json.loads(marker.read_text())
        _check_same(folder, "prepared", prepared, settings, sources)
        return prepared["splits"]
    if plan.is_file():
        _check_same(folder, "in preparation", json.loads(plan.read_text())["about"], settings, sources)
    elif folder.exists() and any(path.name != NAME for path in folder.iterdir()):
        raise ValueError(f"Expected `folder` to be new, empty or prepared shards, but `{folder}` holds other files.")
    return None


def _check_same(
    folder: Path, state: str, prepared: dict[str, Any], settings: PreparationSettings, sources: Sequence[Source]
) -> None:
    described = [describe(one, before) for one, before in zip_longest(sources, prepared.get("sources", []))]
    about = {**settings.about(), "sources": described}
    # States that are there and not asked for do no harm.
    if {name: prepared.get(name) for name in {*about, "quality", "hours"} if name in {**about, **prepared}} != about:
        raise ValueError(
            f"Expected `{folder}` to be {state} from {about}, but it was {state} from {prepared}. "
            "Name another folder, or remove this one to prepare it anew."
        )


def _prepare(
    sources: Sequence[Source],
    units: UnitFolder,
    settings: PreparationSettings,
    num_processes: int,
    share: tuple[int, int],
) -> list[str]:
    """Returns the splits; [] if other shares are not done yet."""
    about = {**settings.about(), "sources": [describe(source) for source in sources]}
    units.begin()
    with units.locked("plan", message=f"{units.folder}: waiting for another process that lists its recordings"):
        if (splits := _prepared_splits(units.folder, settings, sources)) is not None:
            units.remove()
            return splits
        if not units.plan_path.is_file():
            items_per_unit = min(settings.samples_per_shard, SAMPLED_UNIT) if settings.hours else None
            write_plan(sources, units.state, about, items_per_unit or settings.samples_per_shard, settings.hours > 0)
    plan = Plan.read(units.state)
    mine = list(plan.units)[share[0] :: share[1]]
    left = [unit for unit in mine if not units.is_done(unit)]
    if len(left) < len(mine):
        done = f"{len(mine) - len(left)} of {len(mine)} units are done"
        print(f"{units.folder}: {done}, the preparation resumes", flush=True)
    work = AudioUnits(sources, units, settings, plan)
    num_left = sum(plan.units[unit] for unit in left)
    with Progress(f"preparing {units.folder.name}", num_left) as progress:
        if min(num_processes, len(left)) > 1:
            run_processes(work, mine, share[1] == 1, min(num_processes, len(left)), progress)
        else:
            work.do_all(mine, share[1] == 1, progress)
    if (splits := _prepared_splits(units.folder, settings, sources)) is not None:
        units.remove()
        return splits  # another process has merged all meanwhile
    needed = EnoughUnits(units, list(plan.units), settings).needed()
    left = [unit for unit in needed if not units.is_done(unit)]
    if left and units.plan_path.is_file():
        which = f"share {share[0] + 1}/{share[1]} is done"
        others = f"{len(left)} of {len(plan.units)} units of other shares are left"
        print(f"{units.folder}: {which}; {others}, the last share joins all (or the command without one)", flush=True)
        return []
    with units.locked("merge"):
        splits = _prepared_splits(units.folder, settings, sources)
        if splits is None:
            credits = "\n\n".join(source.credits() for source in sources)
            splits = merge_units(units, plan, needed, settings, credits)
            for path in [*units.folder.glob(".*.tmp"), *units.folder.glob("*/.*.tmp")]:  # of killed attempts
                path.unlink()
            _write_marker(units.folder, {**about, "splits": splits}, settings)
        units.remove()
    return splits


def _judged_again(units: UnitFolder, settings: PreparationSettings, splits: list[str]) -> list[str]:
    """Change the verdicts over the whole corpus of a prepared folder to those of other settings. Returns its splits."""
    wanted = (settings.quality or QualityControl()).corpus_settings()
    prepared = json.loads((units.folder / MARKER).read_text())
    if prepared.get("corpus_quality", {}) == wanted:
        return splits
    if "corpus_quality" not in prepared:
        raise ValueError(
            f"Expected shards with measures for {wanted}, but `{units.folder}` was prepared by an earlier version "
            "without any. Name another folder, or remove this one to prepare it anew."
        )
    print(f"{units.folder}: other verdicts over the whole corpus, {wanted or 'the defaults'}", flush=True)
    units.begin()
    with units.locked("merge"):
        splits = judge(units.folder, settings)
        _write_marker(units.folder, {**prepared, "splits": splits}, settings)
    units.remove()
    return splits


def _write_marker(folder: Path, prepared: dict[str, Any], settings: PreparationSettings) -> None:
    """Write the marker that completes a folder."""
    corpus_quality = (settings.quality or QualityControl()).corpus_settings()
    write_whole(folder / MARKER, json.dumps({**prepared, "corpus_quality": corpus_quality}, indent=1))


def describe(source: Source | None, before: dict[str, Any] | None = None) -> dict[str, Any] | None:
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
        settings[name] = describe(value, known) if hasattr(value, "recordings") else value
    return json.loads(json.dumps({"class": type(source).__name__, **settings}, default=str))
