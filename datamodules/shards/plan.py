"""The plan of a preparation: every recording of its sources, sorted, with its key and split, in fixed units of work.

The plan depends on the sources' listings alone, not on processes or machines. It is written once, to
FOLDER/.preparing/plan.json with one file of items per unit, and followed by every process.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from datamodules.shards.shards import held_out, usable_key
from datamodules.shards.texts import comparable
from datamodules.sources.listed import Item, ListedSource, plain_key
from datamodules.sources.source import Source
from modules.atomic_file import write_whole

UNUSABLE_KEY = "key is empty or holds a dot, slash or space"
MANY_SPEAKERS = 20  # from here on speakers are held out, not texts
MAX_PEEKED = 5_000  # recordings of a first container that decide what is held out
DEFAULTS = {one.name: one.default for one in fields(Item)}


@dataclass(frozen=True)
class Planned:
    """One item of a unit: the number of its source, its key, and its split, decided where it can be."""

    source: int
    key: str
    item: Item

    def plain(self) -> dict[str, Any]:
        if self.item.content:
            raise ValueError(
                f"Expected the items of a source without `content`, but got {self.key!r} with it: the plan lists "
                "recordings before they are read. Only `members` of a container have content."
            )
        about = {name: value for name, value in vars(self.item).items() if value not in (DEFAULTS[name], {})}
        return {"source": self.source, "key": self.key, "item": about}

    @classmethod
    def of_plain(cls, stored: dict[str, Any]) -> "Planned":
        about = dict(stored["item"])
        if "bytes_at" in about:
            about["bytes_at"] = tuple(about["bytes_at"])
        return cls(stored["source"], stored["key"], Item(**about))


@dataclass
class Plan:
    """`about` describes sources and settings; `units` maps the name of each unit to its number of items, in order.
    `streams` are the numbers of the sources that cannot list their recordings: together they are the unit
    `stream_unit`. `rules`: HoldOutRule of each source with containers, by its number."""

    about: dict[str, Any]
    units: dict[str, int]
    streams: list[int] = field(default_factory=list)
    stream_unit: str = ""
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    num_recordings: int = 0

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        content = json.loads((folder / "plan.json").read_text())
        return cls(**{**content, "skipped": [(key, reason) for key, reason in content["skipped"]]})

    def items(self, folder: Path, unit: str) -> Iterator[Planned]:
        with (folder / "plan" / f"{unit}.jsonl").open() as lines:
            for line in lines:
                yield Planned.of_plain(json.loads(line))


class UsedKeys:
    """Keys that a plan has used, with the source of each."""

    def __init__(self, several_sources: bool) -> None:
        self.several_sources = several_sources
        self._source_of: dict[str, str] = {}

    def key(self, own_key: Any, prefix: str, source: str) -> tuple[str, str]:
        """Return the key in this preparation: the own key, with its prefix if there are several sources, or with its
        source's name if another source has the same key; and the reason why it is unusable, or ""."""
        key = f"{prefix}_{own_key}" if self.several_sources and prefix else own_key
        if self._source_of.get(key, source) != source:
            key = f"{plain_key(printable(source))}_{own_key}"
        if not usable_key(key):
            return key, UNUSABLE_KEY
        if key in self._source_of:
            hint = f": `name` tells sources apart, both are {source!r}" if self.several_sources else ""
            return key, f"another recording has this key{hint}"
        self._source_of[key] = source
        return key, ""


def write_plan(
    sources: Sequence[Source], folder: Path, about: dict[str, Any], items_per_unit: int, is_sampled: bool = False
) -> Plan:
    """List the sources and write their plan into `folder`, plan.json last.

    `is_sampled`: the order is that of the keys' hashes, so that any number of first units is an unbiased choice.
    Raises what the sources raise.
    """
    keys = UsedKeys(several_sources=len(sources) > 1)
    plan = Plan(about, {})
    runs: list[list[Planned]] = []
    containers: list[Planned] = []
    streams: list[int] = []
    for number, source in enumerate(sources):
        if not isinstance(source, ListedSource):
            streams.append(number)
            plan.num_recordings += source.num_recordings
            continue
        listed = _listed(source, number, keys, plan.skipped)
        plain = [one for one in listed if not one.item.is_container]
        of_source = sorted((one for one in listed if one.item.is_container), key=lambda one: one.key)
        if of_source:
            plan.rules[str(number)] = asdict(rule_of_containers(source, of_source[0].item))
            containers += of_source
        plain = with_splits(plain, source)
        by_split: dict[str, list[Planned]] = defaultdict(list)
        for one in sorted(plain, key=lambda one: one.key):
            by_split[one.item.split].append(one)
        runs += (by_split[split] for split in sorted(by_split))
    if is_sampled:
        runs = [sorted((one for run in runs for one in run), key=lambda one: _digest(one.key))]
    parts = [run[start : start + items_per_unit] for run in runs for start in range(0, len(run), items_per_unit)]
    parts += [[one] for one in containers]
    if is_sampled:
        parts.sort(key=lambda part: _digest(part[0].key))
    for number, part in enumerate(parts):
        unit = f"{number:06d}"
        lines = "".join(f"{json.dumps(one.plain())}\n" for one in part)
        write_whole(folder / "plan" / f"{unit}.jsonl", lines)
        plan.units[unit] = len(part)
        plan.num_recordings += len(part)
    if streams:
        plan.streams, plan.stream_unit = streams, f"{len(parts):06d}"
        plan.units[plan.stream_unit] = sum(sources[number].num_recordings for number in streams)
    plan.num_recordings += len(plan.skipped)
    write_whole(folder / "plan.json", json.dumps(asdict(plan), indent=1))
    return plan


def _listed(source: ListedSource, number: int, keys: UsedKeys, skipped: list[tuple[str, str]]) -> list[Planned]:
    """The source's items with their keys in this preparation; those that cannot be used go to `skipped`."""
    found: list[Planned] = []
    for own_key, item in source.keyed_items():
        if item.unusable:
            skipped.append((printable(own_key), printable(item.unusable)))
            continue
        key, reason = keys.key(own_key, source.name if source.prefixes_keys else "", source.source_name)
        if reason:
            skipped.append((printable(key), reason))
        else:
            # `own_key` keeps the split independent of the other sources.
            found.append(Planned(number, key, replace(item, more={**item.more, "own_key": own_key})))
    return found


@dataclass(frozen=True)
class HoldOutRule:
    """What is held out: groups of recordings of one speaker, text or key, by hash; `always` and `never` are groups
    whose hash says otherwise, so that a corpus of few groups has both splits."""

    by: str
    always: Sequence[str] = ()
    never: Sequence[str] = ()

    @classmethod
    def of_groups(cls, by: str, groups: Iterable[str]) -> "HoldOutRule":
        """The rule for a corpus of these groups: of two or more, neither all nor none."""
        ordered = sorted(set(groups), key=_digest)
        held = [group for group in ordered if held_out(group)]
        if len(ordered) < 2 or by == "key" or 0 < len(held) < len(ordered):
            return cls(by)
        return cls(by, never=ordered[-1:]) if held else cls(by, always=ordered[:1])

    def is_held_out(self, group: str) -> bool:
        return group in self.always or (held_out(group) and group not in self.never)


def with_splits(planned: Sequence[Planned], source: ListedSource) -> list[Planned]:
    """Decide the splits of items that have none."""
    by = source.hold_out
    if by == "auto":
        by = "speaker" if len({one.item.speaker for one in planned}) >= MANY_SPEAKERS else "text"
    open_ones = [one for one in planned if not one.item.split]
    group_of = {one.key: held_out_group(by, source, one.item, one.item.more["own_key"]) for one in open_ones}
    rule = HoldOutRule.of_groups(by, group_of.values())
    decided = []
    for one in planned:
        more = {name: value for name, value in one.item.more.items() if name != "own_key"}
        split = one.item.split or ("held_out" if rule.is_held_out(group_of[one.key]) else "train")
        decided.append(replace(one, item=replace(one.item, split=split, more=more)))
    return decided


def rule_of_containers(source: ListedSource, first: Item) -> HoldOutRule:
    """The rule for recordings in containers, from those of the first one: the others are not read for the plan."""
    speakers: set[str] = set()
    groups: dict[str, set[str]] = {"speaker": set(), "text": set(), "key": set()}
    for member in islice(source.each_member(first), MAX_PEEKED):
        if member.unusable or member.split:
            continue
        speakers.add(member.speaker)
        for by, found in groups.items():
            found.add(held_out_group(by, source, member, source.key(member)))
    by = source.hold_out
    if by == "auto":
        by = "speaker" if len(speakers) >= MANY_SPEAKERS else "text"
    return HoldOutRule.of_groups(by, groups[by])


def held_out_group(rule: str, source: ListedSource, item: Item, key: str) -> str:
    """What is held out together with this recording: all of its speaker, all of its text, or itself alone."""
    if rule == "speaker" and item.speaker:
        return printable(f"{source.source_name}/{item.speaker}")
    if rule in ("speaker", "text") and (words := comparable(item.text)):
        return words
    return key


def split_of_member(rule: HoldOutRule, source: ListedSource, item: Item, key: str) -> str:
    """The split of a recording in a container."""
    return item.split or ("held_out" if rule.is_held_out(held_out_group(rule.by, source, item, key)) else "train")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def printable(value: Any) -> str:
    """Convert to a string that UTF-8 can encode; "" for None."""
    return "" if value is None else str(value).encode(errors="backslashreplace").decode()
