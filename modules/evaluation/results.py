"""EvaluatedCodecs: the results of a codec evaluation, for its files, its page and loggers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.api import Audio
from modules.evaluation.judge import EvaluatedRecording, Judgement
from modules.evaluation.quoted_table import QuotedTable, aligned
from modules.evaluation.systems import SystemFacts
from modules.evaluation.table import formatted_table, write_evaluation, write_judgements, write_table, written_table
from modules.statistics import Estimate

FILES = ("codec_table.csv", "codec_table.md", "codec_utterances.csv", "codec_evaluation.json")


@dataclass(frozen=True)
class EvaluatedCodecs:
    """Results of a codec evaluation, on rank 0: the table, the description of the run, and a few audio examples.

    `examples`: utterances, selected by the hash of keys, with each system's output. `judgements` cover all utterances.
    """

    table: dict[str, dict[str, Estimate]]
    facts: dict[str, SystemFacts]
    judgements: list[Judgement]
    description: dict[str, Any]
    quoted: QuotedTable | None = None
    examples: list[tuple[EvaluatedRecording, dict[str, Audio]]] = field(default_factory=list)


def write_results(results: EvaluatedCodecs, folder: Path) -> None:
    """Write the files FILES to `folder`, and print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    table, description = results.table, results.description
    title = f"Codecs on {description['num_prompts']} recordings"
    write_table(table, folder / FILES[0])
    (folder / FILES[1]).write_text(written_table(table, results.facts, results.quoted, title), encoding="utf-8")
    write_judgements(results.judgements, folder / FILES[2])
    write_evaluation(table, description, folder / FILES[3])
    seconds, left_out = description["seconds"], description["num_left_out"]
    print(f"\n{description['num_prompts']} prompts, {seconds:.0f} s; left out: {left_out}")
    print(formatted_table(table, results.facts))
    if results.quoted is not None:
        print(f"\n{results.quoted.caption}\n{aligned([results.quoted.headings, *results.quoted.rows])}\n")
    for name, requirement in description["missing_comparisons"].items():
        print(f"{name}: left out, needs {requirement}")
    print(f"{folder}: {', '.join(FILES)}", flush=True)
