"""The example of docs/corpora.md, as it stands there."""

import re
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY
from tests.toys.miniatures import found_in, write_text, write_tone


def test_the_example_reads_its_layout(tmp_path: Path):
    """Guards against an example that no longer fits ListedSource, and one that raises for a bad line."""
    [text] = re.findall(r"^```python\n# \S+\n(.*?)^```", (REPOSITORY / "docs/corpora.md").read_text(), re.M | re.S)
    body = text.partition("class ")[2].splitlines()
    assert len([line for line in body if line.strip()]) <= 10
    namespace: dict[str, Any] = {"__name__": "bible_readings"}
    exec(compile(text, "docs/corpora.md", "exec"), namespace)
    write_text(tmp_path / "texts.tsv", "a1\tamina\tHapo mwanzo.\na2\tamina\tTena.\nbad\n")
    write_tone(tmp_path / "audio/amina/a1.wav", 16_000)
    found = found_in(namespace["BibleReadingsSource"](tmp_path))
    [one] = found.kept.values()
    assert (one.key, one.text, one.speaker) == ("bible_readings_a1", "Hapo mwanzo.", "amina")
    assert (one.language, one.license) == ("sw", "CC BY-SA 4.0")
    assert found.skips == {"unreadable": 1, "a line of texts.tsv that is not `id<TAB>speaker<TAB>text`": 1}
