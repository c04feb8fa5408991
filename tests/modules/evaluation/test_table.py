"""The codec's table as text and files: columns of the paper's Table 1, quoted rows separate, no values lost."""

import csv
import json
import math
from pathlib import Path

import pytest

from modules.evaluation.judge import Judgement
from modules.evaluation.quoted_table import EMPTY, QuotedTable
from modules.evaluation.systems import SystemFacts
from modules.evaluation.table import (
    formatted_table,
    table_cells,
    write_evaluation,
    write_judgements,
    write_table,
    written_table,
)
from modules.statistics import Estimate
from tests.conftest import REPOSITORY

TABLE1 = REPOSITORY / "configs/codec/llasa_table1.csv"


def estimate(value: float, num_unjudged: int = 0) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1, 25, num_unjudged)


@pytest.fixture
def table() -> dict[str, dict[str, Estimate]]:
    basis = {name: estimate(value) for name, value in (("stoi", 0.9), ("pesq_wb", 2.5), ("pesq_nb", 3.0))}
    nothing = Estimate(math.nan, math.nan, math.nan, 0, 25)
    return {
        "ours": {
            "wer": estimate(0.25), **basis, "bit_rate": estimate(800),
            "speaker": estimate(0.8), "emotion": estimate(0.5),
        },
        "a|b": {"wer": estimate(0.5, 2), **basis, "bit_rate": estimate(6000), "speaker": nothing},
    }  # fmt: skip


FACTS = {
    "ours": SystemFacts(name="ours", codebook_size=65536, num_codebooks=1, frame_rate=50.0, latency_seconds=0.6),
    "a|b": SystemFacts(name="a|b"),
}


def test_columns_are_those_of_the_paper_then_ours(table: dict) -> None:
    """Guards against values under another heading: every cell is looked up by hand."""
    header, ours, other = table_cells(table, FACTS, all_columns=True)
    paper = ["tok/s", "codebook", "layers", "Hz", "WER %", "STOI", "PESQ-WB", "PESQ-NB", "SPK-SIM", "UTMOS"]
    assert header[:11] == ["system", *paper]
    cells = dict(zip(header, ours, strict=True))
    assert [cells[name] for name in paper[:4]] == ["50", "65536", "1", "50"]
    assert cells["WER %"] == "25.0 [15.0, 35.0]"
    assert cells["PESQ-WB"] == "2.50 [2.40, 2.60]" and cells["PESQ-NB"] == "3.00 [2.90, 3.10]"
    assert (cells["UTMOS"], cells["bit/s"], cells["latency s"]) == (EMPTY, "800", "0.60")
    assert cells["emotion"] == "0.500 [0.400, 0.600]"
    others = dict(zip(header, other, strict=True))
    assert [others[name] for name in ("tok/s", "Hz", "SPK-SIM", "emotion", "latency s")] == [EMPTY] * 5


def test_the_printed_table_leaves_empty_columns_out_and_says_why(table: dict) -> None:
    """Guards against a missing judge that looks like a missing column, unscored utterances that are not reported, and
    two systems in lines that a terminal breaks."""
    text = formatted_table(table, FACTS)
    lines = text.splitlines()
    measures = [line.split()[0] for line in lines]
    assert len({len(line) for line in lines[:3]}) == 1 and lines[0].split() == ["system", *table]
    assert "UTMOS" not in measures and "SPK-SIM" in measures and max(map(len, lines)) <= 120
    many = formatted_table({f"system {number}": table["a|b"] for number in range(40)}, {}).splitlines()
    assert many[0].split()[:2] == ["system", "WER"] and many[1].startswith("system 0")
    assert "UTMOS: empty, no verifier named utmos was given" in lines
    assert "a|b: wer of 2 utterances could not be judged" in lines
    assert "a|b: speaker of 25 utterances could not be judged" in lines


def test_quoted_rows_are_those_of_the_paper_and_stand_apart(table: dict) -> None:
    """Guards against quoted numbers that pass for measured ones, and against copying errors: the rows to compare with,
    and the sum of each column (computed from the paper's table)."""
    quoted = QuotedTable.read(TABLE1)
    assert "arXiv 2502.04128" in quoted.caption and "LibriSpeech test-clean" in quoted.caption
    assert "Nothing of it was measured here" in quoted.caption
    rows = {(row[0], row[1]): row[2:] for row in quoted.rows}
    assert len(quoted.rows) == len(rows) == 20
    assert rows["X-codec2", "50"] == ["65536", "1", "50", "2.47", "0.92", "2.43", "3.04", "0.82", "4.13"]
    assert rows["Mimi", "100"] == ["2048", "8", "12.5", "2.96", "0.91", "2.25", "2.80", "0.73", "3.56"]
    assert rows["Encodec", "75"] == ["1024", "1", "75", "28.92", "0.77", "1.23", "1.48", "0.25", "1.25"]
    sums = [sum(float(row[place]) for row in quoted.rows) for place in range(5, 11)]
    assert sums == pytest.approx([186.47, 16.96, 41.6, 49.54, 11.73, 60.87])
    header = table_cells(table, FACTS, all_columns=True)[0]
    assert quoted.headings[1:] == header[1:11], "the quoted columns stand under other names than the measured ones"
    page = written_table(table, FACTS, quoted, "Codecs")
    measured, _, apart = page.partition("## Quoted, not measured here")
    assert "X-codec2" not in measured and quoted.caption in apart and "| X-codec2 | 50 |" in apart
    assert r"| a\|b |" in measured
    assert "Quoted" not in written_table(table, FACTS, None, "Codecs")


def test_a_quoted_table_without_a_caption_or_with_a_torn_row_is_refused(tmp_path: Path) -> None:
    """Guards against numbers of unknown origin."""
    for text in ("model,WER\na,1\n", "# from there\nmodel,WER\na,1,2\n"):
        (tmp_path / "quoted.csv").write_text(text)
        with pytest.raises(ValueError, match="Expected `quoted` with a caption"):
            QuotedTable.read(tmp_path / "quoted.csv")


def test_files_hold_every_number(table: dict, tmp_path: Path) -> None:
    """Guards against NaN in JSON, and lost scores if only some rows have them."""
    write_table(table, tmp_path / "table.csv")
    rows = {(row["system"], row["metric"]): row for row in csv.DictReader((tmp_path / "table.csv").open())}
    assert len(rows) == sum(map(len, table.values()))
    assert float(rows["ours", "speaker"]["high"]) == pytest.approx(0.9)
    write_evaluation(table, {"facts": {"a|b": {"latency": math.nan}}, "list": [math.nan]}, tmp_path / "card.json")
    card = json.loads((tmp_path / "card.json").read_text(), parse_constant=pytest.fail)
    assert card["systems"]["a|b"]["speaker"]["value"] is None
    assert (card["facts"]["a|b"]["latency"], card["list"]) == (None, [None])
    judged = Judgement("s", "k", 1.0, 2.0, 3, 0.0, 0.5, 1.0, 1.5, "a", "b", scores={"speaker": 0.25})
    other = Judgement("t", "k", 1.0, 2.0, 3, 0.0, 0.5, 1.0, 1.5, "a", "b", encode_seconds=0.5)
    write_judgements([judged, other], tmp_path / "rows.csv")
    first, second = csv.DictReader((tmp_path / "rows.csv").open())
    assert (first["speaker"], second["speaker"], second["encode_seconds"]) == ("0.25", "nan", "0.5")
    assert "codes_QS" not in first and "scores" not in first
