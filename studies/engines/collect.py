"""Renders the table of studies/engines/README.md from the json beside it.

    python -m studies.engines.collect

Computes nothing: benchmarks/sampling_engines.py measures.
"""

import json
from pathlib import Path

from studies.collected import table, write_page

HERE = Path(__file__).parent
VOCABULARIES = {"llasa": "Llasa's", "demo": "the demo's"}
AGAINST = {"generate": ("`transformers.generate`, same constraint", 5), "vllm": ("vLLM, eager", 1)}


def tables(folder: Path) -> dict[str, list[str]]:
    """The lines of each table of README.md, of results.json in `folder`."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    rows = []
    for name, vocabulary in VOCABULARIES.items():
        for place, (other, (against, goal)) in enumerate(AGAINST.items()):
            ratio = found[name]["tokens_per_second"]["ours_over"][other]
            reached = ratio >= goal
            what = "" if place else f"{vocabulary}, {found[name]['vocab_size']:,}"
            shown = f"**{ratio:.1f}**" if reached else f"{ratio:.1f}"
            rows.append([what, against, shown, goal if reached else f"{goal}: not reached"])
    return {"ratios": table(["vocabulary", "against", "ratio of medians", "goal"], rows)}


if __name__ == "__main__":
    write_page(HERE, tables(HERE))
