"""studies/engines/curve_agreement.py on hand-made curves."""

import csv
from pathlib import Path

import pytest

from modules.search.analysis.results import CURVE_COLUMNS
from studies.engines.curve_agreement import disagreements, main, read_curve


def write(path: Path, scores: list[float], half_width: float = 0.1) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, CURVE_COLUMNS, restval="0")
        writer.writeheader()
        for index, score in enumerate(scores):
            point = {"n": 2**index, "score": score, "low": score - half_width, "high": score + half_width}
            writer.writerow({"prompt_set": "set", "selector": "random", "judge": "wer", **point})
    return path


def test_points_agree_where_they_differ_by_chance_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Guards against an interval of the difference that is too wide (the sum of both) or too narrow (one alone)."""
    first = write(tmp_path / "first.csv", [0.0, 1.0, 2.0])
    near, far = write(tmp_path / "near.csv", [0.12, 1.1, 1.9]), write(tmp_path / "far.csv", [0.05, 1.15, 2.0])
    assert disagreements(read_curve(first), read_curve(near)) == []
    main([str(first), str(near)])
    assert "3 of 3 points agree" in capsys.readouterr().out
    lines = disagreements(read_curve(first), read_curve(far))
    assert len(lines) == 1 and "/ 2: 1 [0.9, 1.1] and 1.15 [1.05, 1.25]" in lines[0]
    with pytest.raises(SystemExit) as stop:
        main([str(first), str(far)])
    assert stop.value.code == 1
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"curve\.csv"):
        read_curve(other)
