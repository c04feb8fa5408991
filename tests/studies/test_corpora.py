"""studies/corpora: a kill is counted as one."""

import time
from pathlib import Path

from studies.corpora import kills


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
