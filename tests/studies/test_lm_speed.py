"""studies/lm_speed/collect.py: the page's numbers are those of the files."""

import importlib.util
import json
from pathlib import Path

import pytest

from studies.collected import filled as filled_page

REPOSITORY = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
SCRIPT = REPOSITORY / "studies/lm_speed/collect.py"
OVERHEAD = {"milliseconds_per_step": 0.714, "milliseconds": {"trainer": 4.25, "bare": 3.536}}
DATA = {
    "useful_tokens_per_second": {"recipe": 30123, "bytes": 3600456, "byte pairs": 1900789},
    "ours_over_recipe": {"bytes": 119.5, "byte pairs": 63.1},
    "goal": 1000000,
    "resume": {"seconds_to_first_batch": 0.613, "goal": 2.0, "num_samples": 10000000},
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("collect_lm_speed", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_the_page_is_replaced_and_nothing_else(script, tmp_path, monkeypatch):
    """Guards against numbers on the page that are in no file, and against text deleted by a new measurement."""
    page = (REPOSITORY / "studies/lm_speed/README.md").read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    (tmp_path / "README.md").write_text(page)
    for name, result in (("lm_overhead", OVERHEAD), ("lm_data_path", DATA)):
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    monkeypatch.setattr(
        "sys.argv", ["collect", "--runs", str(tmp_path), "--output", str(tmp_path / "results.json")]
    )  # fmt: skip
    for _ in range(2):  # the second time over its own page
        script.main()
    filled = (tmp_path / "README.md").read_text()
    assert filled.startswith(before + BEGIN) and filled.endswith(END + after)
    table = filled.split(BEGIN)[1].split(END)[0]
    rows = [line.strip("| ").split(" | ") for line in table.split("\n") if line[:2] == "| "]
    assert [len(row) for row in rows] == [5] * 5
    assert rows[1][1:4] == ["3,600,456 tokens/s", "30,123 tokens/s", "120 times"]
    assert rows[3][1] == "0.61 s" and "10,000,000 samples" in rows[3][0]
    assert rows[4][1:4] == ["4.25 ms", "3.54 ms", "0.71 ms more"]
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["lm_overhead"] == OVERHEAD and "head_loss" not in found
    with pytest.raises(ValueError, match="end of table"):
        filled_page(f"a page\n{BEGIN}\n", "table", "")
