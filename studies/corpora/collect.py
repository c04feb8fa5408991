"""Renders the tables of studies/corpora/README.md from the json beside it.

    python -m studies.corpora.collect

Computes nothing. A measurement that is not there has no table.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studies.collected import filled, table

HERE = Path(__file__).parent


def read(name: str) -> dict[str, Any] | None:
    path = HERE / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


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


def kills(names: Sequence[tuple[str, str]]) -> list[str]:
    rows = []
    for name, what in names:
        if (found := read(name)) is not None:
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


def throughput() -> list[str]:
    rows = []
    if (found := read("preparation")) is not None:
        clock = found.get("clock", "wall")
        what = f"preparation: time against a plain loop with ShardWriter, one process ({clock} seconds)"
        rows.append((what, "≤ 1.1", f"{found['ours_over_plain_loop']:.2f}"))
        (_, alone), *others = found["processes"].items()
        for number, seconds in others:
            what = f"preparation: rate of {number} processes against one, {found['audio_hours']} h (wall seconds)"
            rows.append((what, number, f"{alone / seconds:.2f}"))
    if (found := read("tokenising")) is not None:
        clock = found.get("clock", "wall")
        threads = f"{found['num_threads']} threads each"
        what = f"tokenising: rate against transformers file by file, one process, {threads} ({clock} seconds)"
        equal = f"{found['codes_equal']:.2%} of the codes equal"
        rows.append((what, "≥ 1.5", f"{found['ours_over']['one_by_one']:.2f}; {equal}"))
        if found["num_processes"] > 1:
            what = f"tokenising: the same in {found['num_processes']} processes of one thread against it"
            rows.append((what, "≥ 1.5", f"{found['best_over_one_by_one']:.2f}"))
    return table(("measured", "goal", "found"), rows)


def main() -> None:
    readme = HERE / "README.md"
    page = readme.read_text()
    if (found := read("layouts")) is not None:
        page = filled(page, "layouts", "\n".join(layouts(found)))
    names = [("kills_prepare", "`prepare`"), ("kills_tokenise", "`predict`")]
    page = filled(page, "kills", "\n".join(kills(names)))
    if (found := read("processes")) is not None:
        page = filled(page, "processes", "\n".join(processes(found)))
    page = filled(page, "throughput", "\n".join(throughput()))
    readme.write_text(page)


if __name__ == "__main__":
    main()
