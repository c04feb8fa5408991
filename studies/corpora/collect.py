"""Renders the tables of studies/corpora/README.md from the json beside it.

    python -m studies.corpora.collect

Computes nothing. A measurement that is not there has no table.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studies.collected import read_json, table, write_page

HERE = Path(__file__).parent


def layouts(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, one in found["layouts"].items():
        splits = ", ".join(f"{split} {count}" for split, count in one["recordings"].items())
        skips = "; ".join(f"{reason}: {count}" for reason, count in one["skips"].items()) or "–"
        hours = f"{one['seconds'] / 3600:.6f}"
        rows.append((f"`{name}`", splits, hours, one["yaml_lines"], one["source_lines"], skips))
    headings = (
        "overlay",
        "recordings kept",
        "hours",
        "lines of yaml",
        "lines of the source's file",
        "skipped, by reason",
    )
    return table(headings, rows)


def kills(folder: Path, names: Sequence[tuple[str, str]]) -> list[str]:
    rows = []
    for name, what in names:
        if (found := read_json(folder / f"{name}.json")) is not None:
            lost = max(one["lost_in_work"] for one in found["kills"])
            equal = f"{found['files_compared']} files equal"
            rows.append((what, found["units"], found["processes"], len(found["kills"]), lost, equal))
    return table(("command", "units", "processes", "kills", "most units begun at a kill", "at the end"), rows)


def processes(found: dict[str, Any]) -> list[str]:
    rows = [
        (what, way, one["files"], f"`{one['sha256'][:16]}`")
        for what, key in (("prepare", "prepared"), ("predict", "tokens"))
        for way, one in found[key].items()
    ]
    return table(("command", "by", "files", "sha256 of all"), rows)


def throughput(folder: Path) -> list[str]:
    rows = []
    if (found := read_json(folder / "preparation.json")) is not None:
        clock = found.get("clock", "wall")
        what = f"preparation: time against a plain loop with ShardWriter, one process ({clock} seconds)"
        rows.append((what, "≤ 1.1", f"{found['ours_over_plain_loop']:.2f}"))
        (_, alone), *others = found["processes"].items()
        for number, seconds in others:
            what = f"preparation: rate of {number} processes against one, {found['audio_hours']} h (wall seconds)"
            rows.append((what, number, f"{alone / seconds:.2f}"))
    if (found := read_json(folder / "tokenising.json")) is not None:
        clock = found.get("clock", "wall")
        threads = f"{found['num_threads']} threads each"
        what = f"tokenising: rate against transformers file by file, one process, {threads} ({clock} seconds)"
        equal = f"{found['codes_equal']:.2%} of the codes equal"
        rows.append((what, "≥ 1.5", f"{found['ours_over']['one_by_one']:.2f}; {equal}"))
        if found["num_processes"] > 1:
            what = f"tokenising: the same in {found['num_processes']} processes of one thread against it"
            rows.append((what, "≥ 1.5", f"{found['best_over_one_by_one']:.2f}"))
    return table(("measured", "goal", "found"), rows)


def tables(folder: Path) -> dict[str, list[str]]:
    """The lines of each table of README.md, of the json files in `folder`."""
    found = {}
    for name, lines_of in (("layouts", layouts), ("processes", processes)):
        if (measured := read_json(folder / f"{name}.json")) is not None:
            found[name] = lines_of(measured)
    names = [("kills_prepare", "`prepare`"), ("kills_tokenise", "`predict`")]
    return found | {"kills": kills(folder, names), "throughput": throughput(folder)}


if __name__ == "__main__":
    write_page(HERE, tables(HERE))
