"""Several algorithms and temperatures in one test: the same prompts, one store, one table, and the page's warnings."""

import csv

import pytest
from lightning.pytorch import Trainer

from callbacks.inference_scaling import InferenceScaling
from callbacks.scaling_report import ScalingReport
from modules.api import SamplingSettings
from modules.search import summary
from modules.search.algorithms.adaptive import Adaptive
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.algorithms.process_beam import ProcessBeam
from tests.callbacks.test_inference_scaling import ToyModule, ToyPrompts
from tests.toys.report_toys import Page
from tests.toys.search_toys import ToyCodec, ToyVerifier, TreeSampler, first_level, mean_level, toy_prompts


class PartialVerifier(ToyVerifier):
    judges_partial = True


class TreeModule(ToyModule):
    """Records the settings that were requested."""

    def sampler(self, settings: SamplingSettings, engine: object = None) -> TreeSampler:
        self.asked = [*getattr(self, "asked", []), settings.temperature]
        return self.toy_sampler


def run(folder, judge_hash=None, module=TreeModule, **changes) -> tuple[InferenceScaling, TreeSampler, TreeModule]:
    settings = {
        "algorithm": BestOfN(4, 40),
        "more_algorithms": [ProcessBeam("reward", 2, 2, 40, 10), Adaptive("reward", 6, 40)],
        "more_temperatures": [0.5],
    } | changes
    selectors = [PartialVerifier("reward", first_level), *settings.pop("more_selectors", [])]
    callback = InferenceScaling(
        ToyCodec(),
        sampling=SamplingSettings(temperature=0.9, min_p=0.02),
        selectors=selectors,
        judges=[ToyVerifier("judge", mean_level, judge_hash)],
        folder=folder,
        num_resamples=100,
        **settings,
    )
    sampler = TreeSampler()
    module = module(sampler)
    trainer = Trainer(
        accelerator="cpu", logger=False, callbacks=[callback, ScalingReport(num_examples=1)],
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.test(module, datamodule=ToyPrompts({"set": toy_prompts(5)}), verbose=False)
    return callback, sampler, module


def test_a_grid_is_one_table_and_one_store(tmp_path):
    """Guards against algorithms that overwrite each other's candidates or points, a temperature that is not used, and a
    finished grid that is sampled again."""
    callback, sampler, module = run(tmp_path)
    assert module.asked == [0.9] * 3 + [0.5] * 3
    results = callback.results
    kinds = {(point.algorithm, point.temperature, point.n) for point in results.points}
    assert kinds >= {("best_of_n", 0.9, n) for n in (1, 2, 4)} | {("process_beam", 0.5, 2), ("process_beam", 0.9, 2)}
    assert {name for name, _, _ in kinds} == {"best_of_n", "process_beam", "adaptive"}
    assert {point.algorithm for point in results.first_points} == {"best_of_n"}
    with (tmp_path / "report" / "curve.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["score"]) for row in rows] == [point.score for point in results.points]
    with (tmp_path / "report" / "comparisons.csv").open() as stream:
        pairs = {(row["first"], row["second"]) for row in csv.DictReader(stream)}
    assert ("best_of_n T=0.9: reward", "process_beam T=0.5: reward") in pairs  # both have n = 2
    assert len(list((tmp_path / "candidates").glob("*.json"))) == 5 * 6
    with (tmp_path / "report" / "candidates.csv").open() as stream:
        assert len({(row["algorithm"], row["temperature"]) for row in csv.DictReader(stream)}) == 6
    num_tokens = sampler.num_tokens
    again, sampler, _ = run(tmp_path)
    assert num_tokens > 0 == sampler.num_tokens
    assert repr(again.results.points) == repr(results.points)
    assert results.description["most_flops_per_prompt"] >= max(trace.cost.flops for trace in results.traces("set"))


def test_every_pair_is_compared_once(tmp_path, monkeypatch):
    """Guards against computing comparisons of each seed and setting that are discarded, which dominate a large report's
    time."""
    asked = []
    own = summary.compare
    monkeypatch.setattr(summary, "compare", lambda points, *about: (asked.append(len(points)), own(points, *about))[1])
    settings = {"more_algorithms": None, "more_seeds": [1], "algorithm": BestOfN(2, 12)}
    results = run(tmp_path, **settings)[0].results
    assert asked == [len(results.points)] and results.comparisons
    alone = run(tmp_path, **settings | {"more_temperatures": None, "more_seeds": None})[0].results
    assert asked[1:] == [len(alone.points)] and alone.comparisons


def rows_of(path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_searches_of_one_name_have_distinct_labels(tmp_path):
    """Guards against two sizes of one search under one label, labels that depend on order, changed labels without a
    clash, and best-of-n in two sizes that no longer serves as baseline."""
    beams = {f"process_beam num_beams={number}": ProcessBeam("reward", number, 2, 40, 10) for number in (2, 4)}
    samples = {f"best_of_n num_candidates={number}": BestOfN(number, 40) for number in (4, 2)}
    settings = {"more_temperatures": None, "more_seeds": [1]}
    first, *others = [*samples.values(), *beams.values(), Adaptive("reward", 6, 40)]
    searches = samples | beams | {"adaptive": others[-1]}
    alone = {
        name: run(tmp_path / name, algorithm=algorithm, more_algorithms=None, **settings)[0].results.points
        for name, algorithm in searches.items()
    }
    assert {point.algorithm for points in alone.values() for point in points} == {
        first.name,
        "process_beam",
        "adaptive",
    }
    results = run(tmp_path, algorithm=first, more_algorithms=others, **settings)[0].results
    for name, points in alone.items():
        own = [(one.selector, one.n, one.score) for one in results.points if one.algorithm == name]
        assert own == [(one.selector, one.n, one.score) for one in points]
    names, report = set(searches), tmp_path / "report"
    for file in ("curve.csv", "prompts.csv", "seeds.csv", "candidates.csv"):
        assert {row["algorithm"] for path in report.glob(file) for row in rows_of(path)} == names, file
    assert {row["algorithm"] for row in rows_of(report / "over_optimisation.csv")} == set(samples)
    labels = [(row["judge"], row["n"], row["first"], row["second"]) for row in rows_of(report / "comparisons.csv")]
    assert len(set(labels)) == len(labels)
    beside = {(row["search"], row["baseline"]) for row in rows_of(report / "equal_compute.csv")}
    baseline = "best_of_n num_candidates=4 T=0.9: reward"
    assert beside == {(f"{name} T=0.9: reward", baseline) for name in names - samples.keys()}
    page = Page((report / "index.html").read_text())
    shown = next(table for table in page.tables.values() if table and table[0][0] == "search")
    assert {row[0] for row in shown[1:]} == {f"{name} T=0.9" for name in names}


def test_the_page_warns_without_an_independent_judge(tmp_path):
    """Guards against a table of a selector's own scores that looks like a result."""
    callback, _, _ = run(tmp_path, "hash of reward", more_algorithms=None, more_temperatures=None)
    assert all(row.warning for row in callback.results.over_optimisation)
    assert "no independent judge" in (tmp_path / "report" / "index.html").read_text()
    assert "no independent judge" in (tmp_path / "report" / "over_optimisation.csv").read_text()
    assert "no independent judge" in (tmp_path / "report" / "summary.json").read_text()


def test_a_wrong_reward_is_refused_before_sampling(tmp_path):
    """Guards against a grid that fails at its last algorithm."""
    with pytest.raises(ValueError, match="Expected the reward of process_beam to be one of the selectors"):
        run(tmp_path, more_algorithms=[ProcessBeam("absent", 2, 2, 40)])
    assert not (tmp_path / "candidates").exists()
