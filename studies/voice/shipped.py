"""Word errors of the shipped weights, which are rounded to half precision, as shipped.json.

    python -m studies.voice.shipped FOLDER       FOLDER: a run of configs/voice/open/evaluate.yaml with these overrides:

    --ckpt_path null --model.init_args.pretrained.source $PWD/voices/rms
    --sweep.init_args.codec.init_args.path voices/rms/codec.ckpt

Errors are counted as studies.voice.collect counts them. Without FOLDER: fills README.md from the committed json.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from modules.verifiers.recognisers.normalise import SpokenEnglish
from studies.collected import cell, date_and_machine, filled, table, write_json
from studies.voice.collect import HERE, gains, in_order, ratio, spoken_errors

PAGE, RESULTS = HERE / "README.md", HERE / "shipped.json"


def measured(report: Path) -> dict[str, Any]:
    """Word error of each system of a report, and the selectors' shares of the oracle's gain."""
    normaliser = SpokenEnglish()
    with (report / "candidates.csv").open(encoding="utf-8") as stream:
        words = {row["prompt_key"]: len(normaliser(row["text"]).split()) for row in csv.DictReader(stream)}
    errors, counts = spoken_errors(report / "candidates.csv", words)
    words_U, arrays = in_order(words, errors)
    return {
        **date_and_machine(),
        "command": "python -m studies.voice.shipped FOLDER",
        "sweep": json.loads((report / "summary.json").read_text(encoding="utf-8"))["description"],
        **counts,
        "wer": {name: ratio(own_U, words_U) for name, own_U in arrays.items()},
        "oracle_gain_shares": gains(words, errors),
    }


def render(found: dict[str, Any], page: str) -> str:
    """The page with the table of the shipped weights filled."""
    shares = found["oracle_gain_shares"]
    rows = [[name, cell(rate), cell(shares.get(name), 2)] for name, rate in found["wer"].items()]
    return filled(page, "shipped weights", "\n".join(table(["", "WER", "share of the oracle's gain"], rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="folder of the run")
    run = parser.parse_args().run
    if run:
        write_json(measured(run / "report"), RESULTS)
    page = render(json.loads(RESULTS.read_text(encoding="utf-8")), PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
