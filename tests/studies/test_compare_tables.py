"""compare_tables: the comparison used by studies/slurm/try_sweep.sh."""

import pytest

from studies.slurm.compare_tables import largest_difference

HEADER = "prompt_key,index,log_probability,whisper,whisper_seconds,seconds\n"
ROW = "digits_1,0,-30.567122355674655,1.0,0.5,0.25\n"


def difference(tmp_path, table: str) -> float:
    (tmp_path / "one.csv").write_text(HEADER + ROW)
    (tmp_path / "other.csv").write_text(table)
    return largest_difference(tmp_path / "one.csv", tmp_path / "other.csv")


def test_last_digits_and_seconds_may_differ(tmp_path):
    """Guards against a comparison that fails for sweeps with different batching."""
    assert difference(tmp_path, HEADER + ROW.replace("0.5,0.25", "9.0,9.0")) == 0
    assert difference(tmp_path, HEADER + ROW.replace(",0,", ",0.0,")) == 0
    other = HEADER + ROW.replace("-30.567122355674655", "-30.567117638525815")
    assert difference(tmp_path, other) == pytest.approx(1.5e-7, rel=0.1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (HEADER + ROW.replace(",1.0,", ",0.75,"), "line 2, whisper: 1.0 and 0.75"),
        (HEADER + ROW.replace(",1.0,", ",,"), "line 2, whisper: 1.0 and "),
        (HEADER + ROW.replace(",1.0,", ",nan,"), "line 2, whisper: 1.0 and nan"),
        (HEADER + ROW.replace("digits_1", "digits_2"), "digits_1 and digits_2"),
        (HEADER + ROW + ROW, "the same rows and columns"),
        (HEADER.replace(",whisper,", ",sphinx,") + ROW, "the same rows and columns"),
    ],
    ids=["score", "no score", "not judged", "prompt", "a row more", "column"],
)
def test_what_a_sweep_found_may_not_differ(tmp_path, table, message):
    """Guards against a tolerance that accepts another selection."""
    with pytest.raises(ValueError, match=message):
        difference(tmp_path, table)
