"""EvaluatedCodecs: the results of a codec evaluation, for its files, its page and loggers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.api import Audio
from modules.evaluation.judge import EvaluatedRecording, Judgement
from modules.evaluation.pitch_table import pitch_cells, write_pitch
from modules.evaluation.quoted_table import QuotedTable, aligned
from modules.evaluation.systems import SystemFacts
from modules.evaluation.table import formatted_table, write_evaluation, write_judgements, write_table, written_table
from modules.pitch import WHY_BY_PITCH
from modules.statistics import Estimate

FILES = ("codec_table.csv", "codec_table.md", "codec_utterances.csv", "codec_evaluation.json")
PITCH_FILE = "codec_pitch.csv"


@dataclass(frozen=True)
class EvaluatedCodecs:
    """Results of a codec evaluation, on rank 0: the table, the description of the run, and a few audio examples.

    `examples`: utterances, selected by the hash of keys, with each system's output. `judgements` cover all utterances.
    `opinion_judges`: the verifiers that predict opinion scores, shown by pitch.
    """

    table: dict[str, dict[str, Estimate]]
    facts: dict[str, SystemFacts]
    judgements: list[Judgement]
    description: dict[str, Any]
    quoted: QuotedTable | None = None
    examples: list[tuple[EvaluatedRecording, dict[str, Audio]]] = field(default_factory=list)
    opinion_judges: list[str] = field(default_factory=list)

    @property
    def pitch_cells(self) -> list[list[str]]:
        """The opinion scores by pitch as a table with a header; empty without such judges."""
        return pitch_cells(self.judgements, self.opinion_judges)


def write_results(results: EvaluatedCodecs, folder: Path) -> None:
    """Write the files FILES and, with opinion judges, PITCH_FILE to `folder`, and print the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    table, description = results.table, results.description
    title = f"Codecs on {description['num_prompts']} recordings"
    write_table(table, folder / FILES[0])
    by_pitch = results.pitch_cells
    page = written_table(table, results.facts, results.quoted, title, by_pitch)
    (folder / FILES[1]).write_text(page, encoding="utf-8")
    write_judgements(results.judgements, folder / FILES[2])
    write_evaluation(table, description, folder / FILES[3])
    if by_pitch:
        write_pitch(results.judgements, results.opinion_judges, folder / PITCH_FILE)
    seconds, left_out = description["seconds"], description["num_left_out"]
    reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.items()) or "none"
    print(f"\n{description['num_prompts']} prompts, {seconds:.0f} s; left out: {reasons}")
    print(formatted_table(table, results.facts))
    if by_pitch:
        print(f"\n{WHY_BY_PITCH}\n{aligned(by_pitch)}")
    if results.quoted is not None:
        print(f"\n{results.quoted.caption}\n{aligned([results.quoted.headings, *results.quoted.rows])}\n")
    for name, requirement in description["missing_comparisons"].items():
        print(f"{name}: left out, needs {requirement}")
    print(f"{folder}: {', '.join([*FILES, PITCH_FILE] if by_pitch else FILES)}", flush=True)
