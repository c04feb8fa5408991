"""studies/corpora: its page holds what its json files say, and a kill is counted as one."""

import shutil
import time
from pathlib import Path

import pytest

from studies.corpora import collect, kills


def test_the_page_is_rendered_from_the_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Guards numbers of the page that no measurement holds."""
    page = (collect.HERE / "README.md").read_text()
    for path in collect.HERE.glob("*.json"):
        shutil.copy(path, tmp_path)
    shutil.copy(collect.HERE / "README.md", tmp_path)
    monkeypatch.setattr(collect, "HERE", tmp_path)
    collect.main()
    assert (tmp_path / "README.md").read_text() == page


def test_kills_and_the_units_that_they_lose(tmp_path: Path):
    """Guards against kills before any work, and finished units that are lost unseen."""
    since = time.time() - 1
    state = tmp_path / "out/.preparing"
    (state / "units").mkdir(parents=True)
    assert kills.has_begun(tmp_path / "out", since, with_units=False)
    assert not kills.has_begun(tmp_path / "out", since, with_units=True)
    (state / "temporary").mkdir()
    (state / "temporary/000001-train.tar.machine.7").touch()
    result = state / "units/000000.json"
    result.touch()
    assert kills.has_begun(tmp_path / "out", since, with_units=True)
    assert not kills.has_begun(tmp_path / "out", time.time() + 9, with_units=True)
    assert kills.finished(tmp_path / "out") == {result} and len(kills.begun(tmp_path / "out")) == 1
    assert not kills.is_merged(result)
    (tmp_path / "out/prepared.json").touch()
    assert kills.is_merged(result)
