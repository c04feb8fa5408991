"""Output of the codec's table: columns of the Llasa paper's Table 1 and ours, quoted rows, text, CSV and JSON."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from modules.atomic_file import write_whole
from modules.evaluation.judge import Judgement
from modules.evaluation.quoted_table import EMPTY, QuotedTable, aligned, markdown_table
from modules.evaluation.systems import SystemFacts
from modules.pitch import WHY_BY_PITCH
from modules.statistics import Estimate

Table = Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True)
class Column:
    """A column: `name` of a metric, of a verifier or of one of SystemFacts, scaled by `factor` for display."""

    heading: str
    name: str
    num_digits: int = 0
    factor: float = 1.0
    why_empty: str = ""

    def cell(self, estimates: Mapping[str, Estimate], facts: SystemFacts) -> str:
        estimate = estimates.get(self.name)
        number = estimate.value if estimate else getattr(facts, self.name, math.nan)
        if math.isnan(number):
            return EMPTY
        if estimate is None or self.name == "bit_rate":  # its interval is in the CSV only
            return self._shown(number)
        return f"{self._shown(number)} [{self._shown(estimate.low)}, {self._shown(estimate.high)}]"

    def _shown(self, number: float) -> str:
        shown = f"{self.factor * number:.{self.num_digits}f}"
        return f"{number:g}" if self.name == "frame_rate" else shown


PAPER_COLUMNS = (
    Column("tok/s", "tokens_per_second"),
    Column("codebook", "codebook_size"),
    Column("layers", "num_codebooks"),
    Column("Hz", "frame_rate"),
    Column("WER %", "wer", 1, 100),
    Column("STOI", "stoi", 3),
    Column("PESQ-WB", "pesq_wb", 2),
    Column("PESQ-NB", "pesq_nb", 2),
    Column("SPK-SIM", "speaker", 3, why_empty="no verifier named speaker was given"),
    Column("UTMOS", "utmos", 2, why_empty="no verifier named utmos was given"),
)
OUR_COLUMNS = (
    Column("DNSMOS", "naturalness_ovrl", 2, why_empty="no verifier named naturalness_ovrl was given"),
    Column("Distill-MOS", "distillmos", 2),
    Column("bit/s", "bit_rate"),
    Column("usage %", "code_usage", 1, 100),
    Column("perplexity", "code_perplexity"),
    Column("encode RTF", "encode_rtf", 3),
    Column("decode RTF", "decode_rtf", 3),
    Column("latency s", "latency_seconds", 2),
)
EXPLANATIONS = (
    "next to or below a value: its 95 % interval over utterances",
    "RTF: seconds of computation per second of audio, one utterance at a time",
    f"latency: how long the first sample of a chunk waits for codes, {EMPTY} where nothing is streamed",
)


def columns_of(table: Table) -> list[Column]:
    """The paper's columns, ours, and one for each additional verifier."""
    known = [*PAPER_COLUMNS, *OUR_COLUMNS]
    names = dict.fromkeys(name for estimates in table.values() for name in estimates)
    return [*known, *(Column(name, name, 3) for name in names if name not in {column.name for column in known})]


def table_cells(table: Table, facts: Mapping[str, SystemFacts], all_columns: bool) -> list[list[str]]:
    """The header and a row for each system; columns without any number are included only with `all_columns`."""
    columns = columns_of(table)
    cells = [
        [column.cell(estimates, facts.get(system, SystemFacts(name=system))) for column in columns]
        for system, estimates in table.items()
    ]
    kept = [place for place in range(len(columns)) if all_columns or any(row[place] != EMPTY for row in cells)]
    header = ["system", *(columns[place].heading for place in kept)]
    return [header, *([system, *(row[place] for place in kept)] for system, row in zip(table, cells, strict=True))]


def notes(table: Table) -> list[str]:
    """Notes on utterances that could not be judged, and on empty columns."""
    unjudged = [
        f"{system}: {metric} of {estimate.num_unjudged} utterances could not be judged"
        for system, estimates in table.items()
        for metric, estimate in estimates.items()
        if estimate.num_unjudged
    ]
    empty = [
        f"{column.heading}: empty, {column.why_empty}"
        for column in columns_of(table)
        if column.why_empty and not any(column.name in estimates for estimates in table.values())
    ]
    return [*unjudged, *empty]


def formatted_table(table: Table, facts: Mapping[str, SystemFacts] | None = None) -> str:
    """Format the table as aligned text, values with intervals: a row for each system, or a column if that is narrower;
    notes on unjudged utterances."""
    cells = table_cells(table, facts or {}, all_columns=False)
    either_way = aligned(cells), aligned(list(zip(*cells, strict=True)))
    narrower = min(either_way, key=lambda text: len(text.splitlines()[0]))
    return "\n".join([narrower, *notes(table)])


def written_table(
    table: Table,
    facts: Mapping[str, SystemFacts],
    quoted: QuotedTable | None,
    title: str,
    by_pitch: Sequence[Sequence[str]] = (),
) -> str:
    """Format as a markdown page: measured rows, explanations, opinion scores `by_pitch` (pitch_cells) and, separately,
    the quoted rows."""
    parts = [f"# {title}", markdown_table(table_cells(table, facts, all_columns=True))]
    parts.append("\n".join(f"- {line}" for line in [*EXPLANATIONS, *notes(table)]))
    if by_pitch:
        parts += ["## Opinion scores by pitch", WHY_BY_PITCH, markdown_table(by_pitch)]
    if quoted is not None:
        parts += ["## Quoted, not measured here", quoted.caption, markdown_table([quoted.headings, *quoted.rows])]
    return "\n\n".join(parts) + "\n"


def write_table(table: Table, path: Path) -> None:
    """Write a CSV with one line per system and metric: system, metric, value, low, high, num, num_unjudged."""
    rows = [
        {"system": system, "metric": metric} | asdict(estimate)
        for system, estimates in table.items()
        for metric, estimate in estimates.items()
    ]
    _write_csv(rows, path)


def write_judgements(judgements: Sequence[Judgement], path: Path) -> None:
    """Write a CSV with one line per system and utterance; each verifier's scores are a column."""
    names = [field.name for field in fields(Judgement) if field.name not in ("scores", "codes_QS")]
    scores = dict.fromkeys(name for row in judgements for name in row.scores)
    _write_csv(
        [
            {name: getattr(row, name) for name in names} | {name: row.scores.get(name, math.nan) for name in scores}
            for row in judgements
        ],
        path,
    )


def write_evaluation(table: Table, description: dict[str, Any], path: Path) -> None:
    """Write the table and the description as strict JSON (NaN becomes null), under a temporary name first."""
    systems = {
        system: {metric: asdict(estimate) for metric, estimate in estimates.items()}
        for system, estimates in table.items()
    }
    text = json.dumps(_without_nan({"systems": systems, **description}), indent=1, allow_nan=False)
    write_whole(path, text)


def read_evaluation(path: Path) -> tuple[dict[str, dict[str, Estimate]], dict[str, SystemFacts]]:
    """The table of `write_evaluation` and the facts of its systems."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    table = {
        system: {metric: Estimate(**_with_nan(estimate)) for metric, estimate in estimates.items()}
        for system, estimates in stored["systems"].items()
    }
    facts = {name: SystemFacts(name=name, **_with_nan(own)) for name, own in stored.get("facts", {}).items()}
    return table, facts


def _with_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in row.items()}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
