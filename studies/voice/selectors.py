"""Word errors of the best of 8 samples of the held-out sentences by each selector, as selectors.json.

    python -m studies.voice.selectors FOLDER/runs/open_voice/selectors

That is a run of configs/voice/open/evaluate.yaml and selectors.yaml. Errors are counted as studies.voice.collect
counts them; equal scores share. Without a folder: fills README.md from the committed json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from studies.collected import cell, filled, table, write_json
from studies.voice.collect import HERE, SELECTORS
from studies.voice.shipped import measured

PAGE, RESULTS = HERE / "README.md", HERE / "selectors.json"
MORE = {
    "text_probability_as_is": "best of {n} by text probability, clips as they are",
    "moonshine": "best of {n} by Moonshine's transcript",
}


def render(found: dict[str, Any], page: str) -> str:
    """The page with the table of the selectors filled."""
    shares = found["oracle_gain_shares"]
    rows = [[name, cell(rate), cell(shares.get(name), 2)] for name, rate in found["wer"].items()]
    headings = ["", "WER", "share of the oracle's gain"]
    return filled(page, "selectors", "\n".join(table(headings, rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="folder of the run")
    run = parser.parse_args().run
    if run is not None:
        write_json(measured(run / "report", MORE | SELECTORS), RESULTS)
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(render(found, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
