"""The page of every study shows the numbers of the json beside it."""

import importlib
import json
import re
from pathlib import Path

import pytest

from studies.collected import with_tables
from studies.voice import formats, judge_noise, selectors, shipped

STUDIES = Path(__file__).resolve().parents[2] / "studies"
MARK = re.compile(r"<!-- end of (.+?) -->")
# No json of these measurements was kept: their tables were written by hand.
BY_HAND = {"codec_streaming"}


def rendered(folder: Path, page: str) -> str:
    collect = importlib.import_module(f"studies.{folder.name}.collect")
    if folder.name == "voice":
        for part in (formats, judge_noise, selectors, shipped):
            page = part.render(json.loads(part.RESULTS.read_text(encoding="utf-8")), page)
        return collect.render(json.loads((folder / "results.json").read_text(encoding="utf-8")), page)
    return with_tables(page, collect.tables(folder))


@pytest.mark.parametrize("page", sorted(STUDIES.glob("*/README.md")), ids=lambda path: path.parent.name)
def test_a_page_is_rendered_from_its_json(page: Path) -> None:
    """Guards against tables edited by hand, or of another run than the committed json, and against a table outside of
    the marks, which no collector renders."""
    text = page.read_text(encoding="utf-8")
    outside = re.sub(r"<!-- (.+?) -->\n.*?<!-- end of \1 -->", "", text, flags=re.DOTALL)
    if page.parent.name in BY_HAND:
        assert "|---" in outside and not MARK.search(text)
        return
    emptied = re.sub(r"(<!-- (.+?) -->\n).*?(\n<!-- end of \2 -->)", r"\1\3", text, flags=re.DOTALL)
    assert rendered(page.parent, emptied) == text
    assert "|---" not in outside
