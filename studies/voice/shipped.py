"""Word errors of the shipped weights, which are rounded to half precision, as shipped.json.

    python -m studies.voice.shipped FOLDER ...

Each FOLDER is a run of configs/voice/open/evaluate.yaml with these options:

    --ckpt_path null --model.init_args.pretrained.source $PWD/voices/rms
    --sweep.codec.init_args.path voices/rms/codec.ckpt

and --sweep.sampling.temperature 0.1, the voice's own, or without it, at that of evaluate.yaml; one of them with
--sweep.sampling.force_words false too.

Errors are counted as studies.voice.collect counts them. Without FOLDER: fills README.md from the committed json.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from modules.verifiers.recognisers.normalise import SpokenEnglish
from studies.collected import cell, date_and_machine, filled, table, write_json
from studies.voice.collect import HERE, SELECTORS, gains, in_order, ratio, spoken_errors

FREE, FORCED = "free", "those of the text"
OWN = 0.1  # temperature in the voice's generation_config.json
PAGE, RESULTS = HERE / "README.md", HERE / "shipped.json"


def measured(report: Path, selectors: dict[str, str] = SELECTORS) -> dict[str, Any]:
    """Word error of each system of a report, and the selectors' shares of the oracle's gain."""
    normaliser = SpokenEnglish()
    with (report / "candidates.csv").open(encoding="utf-8") as stream:
        words = {row["prompt_key"]: len(normaliser(row["text"]).split()) for row in csv.DictReader(stream)}
    errors, counts = spoken_errors(report / "candidates.csv", words, selectors)
    words_U, arrays = in_order(words, errors)
    return {
        **date_and_machine(),
        "sweep": json.loads((report / "summary.json").read_text(encoding="utf-8"))["description"],
        **counts,
        "wer": {name: ratio(own_U, words_U) for name, own_U in arrays.items()},
        "oracle_gain_shares": gains(words, errors),
    }


def render(found: dict[str, Any], page: str) -> str:
    """The page with the table of the shipped weights filled."""
    rows = [
        [words if name == "N = 1" else "", name, cell(rate), cell(own["oracle_gain_shares"].get(name), 2)]
        for words, own in found.items()
        for name, rate in own["wer"].items()
    ]
    return filled(page, "shipped weights", "\n".join(table(["words", "", "WER", "share of the oracle's gain"], rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="folders of runs")
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    for run in parser.parse_args().runs:
        own = measured(run / "report")
        sampling = own["sweep"]["sampling"]
        words = FORCED if sampling.get("force_words") else FREE
        found[words if sampling["temperature"] == OWN else f"{words}, temperature {sampling['temperature']}"] = own
    write_json(found, RESULTS)
    PAGE.write_text(render(found, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
