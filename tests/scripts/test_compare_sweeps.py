"""scripts/compare_sweeps.py: two models in one table, their differences paired over the same prompts."""

import csv

import numpy as np
import pytest

from modules.search.analysis.comparisons import SAME_FAMILY
from modules.statistics import Resamples, bootstrap_interval
from scripts.compare_sweeps import compare_models, main
from tests.callbacks.test_sweep_grid import TreeModule, run


class OtherModule(TreeModule):
    """Another model: its candidates must not be reused from the first one's store."""

    model_hash = "another model"


def rows_of(scores: dict[str, float], **about: str) -> list[dict[str, str]]:
    line = {"prompt_set": "set", "algorithm": "best_of_n", "temperature": "0.9", "selector": "random", "judge": "judge",
            "n": "4"} | about  # fmt: skip
    return [line | {"prompt_key": key, "speaker": key[0], "score": str(score)} for key, score in scores.items()]


def test_models_are_compared_on_the_same_prompts(caplog):
    """Guards against rows paired by their position in the file, intervals of independent samples, the oracle, and
    searches that are silently dropped."""
    generator = np.random.default_rng(0)
    keys = [f"{'ab'[place % 2]}{place}" for place in range(20)]
    level = 10 * generator.normal(size=20)
    small = dict(zip(keys, level, strict=True))
    large = dict(zip(keys, level + 1 + 0.1 * generator.normal(size=20), strict=True))
    turned = dict(reversed(large.items()))
    oracle = rows_of(small, selector="oracle (judge)")
    reports = {"small": [*rows_of(small), *oracle], "large": [*rows_of(turned), *oracle]}
    (one,) = compare_models(reports, num_resamples=500)
    difference_P = np.array([small[key] - large[key] for key in keys])
    search = "best_of_n T=0.9: random"
    assert (one.first, one.second) == (f"small, {search}", f"large, {search}")
    assert (one.n, one.num_prompts) == (4, 20)
    assert one.difference == pytest.approx(difference_P.mean())
    assert (one.low, one.high) == pytest.approx(bootstrap_interval(difference_P, Resamples.draw(20, 0, 500)))
    assert -1.2 < one.speaker_low <= one.speaker_high < -0.8 and one.p_value < 0.001
    with pytest.raises(ValueError, match="to have the same prompts in 'set', but got others: \\['a0'\\]"):
        compare_models({"small": rows_of(small), "large": rows_of(large)[1:]})
    assert not caplog.messages
    assert (
        compare_models({"small": rows_of(small), "large": rows_of(large, algorithm="best_of_n num_candidates=4")}) == []
    )
    assert len(caplog.messages) == 2 and "num_candidates=4" in "".join(caplog.messages)


def test_ends_and_families_are_read_from_the_reports():
    """Guards against an interval of another width than the sweep's own, and against a judge of the selector's family
    without a label; older reports without these columns are still read."""
    scores = {f"a{place}": 1.0 for place in range(32)}
    known = {"worst_score": "0.0", "best_score": "1.0", "shared_families": "whisper", "selector": "small"}
    (one,) = compare_models({name: rows_of(scores, **known) for name in ("first", "second")})
    assert (one.low, one.high) == bootstrap_interval(np.zeros(32), Resamples.draw(32, 0), (-1.0, 1.0))
    assert one.low < -0.05 and one.first == f"first, best_of_n T=0.9: small {SAME_FAMILY}"
    (older,) = compare_models({name: rows_of(scores) for name in ("first", "second")})
    assert (older.low, older.high) == (0.0, 0.0) and SAME_FAMILY not in older.first


def test_a_search_whose_number_of_candidates_differs_is_compared_all_the_same():
    """Guards against adaptive searches missing in the table because one model needed more candidates."""
    scores = {"a0": 0.5, "a1": 0.75}
    adaptive = {
        "small": rows_of(scores, algorithm="adaptive", n="7"),
        "large": rows_of(scores, algorithm="adaptive", n="5"),
    }
    (one,) = compare_models(adaptive)
    assert (one.n, one.difference) == (7, 0.0)


def test_reports_of_two_models_become_one_table(tmp_path, capsys):
    """Guards against reports that the sweep writes and this cannot read, and against models that share candidates."""
    settings = {"more_algorithms": None, "more_temperatures": None}
    first, *_ = run(tmp_path / "runs", **settings)
    (tmp_path / "runs/report").rename(tmp_path / "first")
    second, sampler, _ = run(tmp_path / "runs", module=OtherModule, **settings)
    assert sampler.num_tokens > 0 and len(list((tmp_path / "runs/candidates").glob("*.json"))) == 10
    main([f"one={tmp_path / 'first'}", f"two={tmp_path / 'runs/report'}", "--output", str(tmp_path / "both")])
    with (tmp_path / "both/models.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    points = [*first.results.points, *second.results.points]
    assert [(row["model"], float(row["score"])) for row in rows] == [
        ("one" if place < len(points) // 2 else "two", point.score) for place, point in enumerate(points)
    ]
    with (tmp_path / "both/model_comparisons.csv").open() as stream:
        assert {float(row["difference"]) for row in csv.DictReader(stream)} == {0.0}  # the toy samples the same codes
    said = capsys.readouterr().out
    assert "n=4: (one, best_of_n T=0.9: reward) - (two, best_of_n T=0.9: reward) = +0.0000" in said
    assert "n=2" not in said
    with pytest.raises(SystemExit):
        main([f"one={tmp_path / 'first'}", "--output", str(tmp_path / "both")])
