"""The callback InferenceScaling in a real Trainer, with toy sampler, codec and verifiers."""

import csv
import itertools
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from callbacks.inference_scaling import InferenceScaling
from modules.api import SamplingSettings
from modules.batches import PromptBatch
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.candidate_store import CandidateStore
from modules.search.panel import chosen_index
from tests.toys.search_toys import (
    CODEBOOK_SIZE,
    ToyCodec,
    ToyFormat,
    ToySampler,
    ToyVerifier,
    WritingVerifier,
    first_level,
    last_level_or_nan,
    mean_level,
    toy_prompts,
)

NUM_CANDIDATES = 8


class ToyModule(LightningModule):
    model_hash, codec_fingerprint = "toy model", ""

    def __init__(self, sampler: ToySampler, codebook_size: int = CODEBOOK_SIZE) -> None:
        super().__init__()
        self.toy_sampler = sampler
        self.prompt_format = ToyFormat(codebook_size)

    def sampler(self, settings: SamplingSettings, engine: object = None) -> ToySampler:
        assert settings.temperature == 0.9
        return self.toy_sampler

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        return None


class ToyPrompts(LightningDataModule):
    """One loader per list of prompts, two prompts per batch."""

    def __init__(self, prompt_sets: dict) -> None:
        super().__init__()
        self.prompt_sets = prompt_sets

    @property
    def prompt_set_names(self) -> list[str]:
        return list(self.prompt_sets)

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        """Lightning's own transfer fails for the frozen Prompt; prompts stay on the host."""
        return batch

    def test_dataloader(self):
        return [
            torch.utils.data.DataLoader(prompts, batch_size=2, collate_fn=lambda prompts: PromptBatch(list(prompts)))
            for prompts in self.prompt_sets.values()
        ]


def panel(seed_hash="hash of first"):
    """`judge` shares its model with the selector `twin`."""
    return {
        "selectors": [
            ToyVerifier("first", first_level, seed_hash),
            ToyVerifier("gaps", last_level_or_nan),
            ToyVerifier("twin", first_level, "judge's model"),
        ],
        "judges": [
            WritingVerifier("judge", last_level_or_nan, "judge's model"),
            ToyVerifier("mean", mean_level),
        ],
        "final_judges": [ToyVerifier("expensive", lambda samples_T: float(samples_T.numel()))],
    }


def callback_in(folder, codec=None, **changes):
    settings = panel() | {"num_resamples": 200, "prompts_per_group": 3} | changes
    algorithm = BestOfN(NUM_CANDIDATES, 12)
    sampling = SamplingSettings(temperature=0.9)
    return InferenceScaling(codec or ToyCodec(), algorithm, sampling, folder=folder, seed=3, **settings)


def run(
    folder, prompt_sets, callback, sampler=None, logger=False, codebook_size=CODEBOOK_SIZE, module=ToyModule, **options
):
    trainer = Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    trainer.test(module(sampler or ToySampler(), codebook_size), datamodule=ToyPrompts(prompt_sets), verbose=False)
    return callback.results


def timeless(points):
    """The points as text, without timings."""
    return repr([replace(point, seconds=0.0) for point in points])


def brute_force(trace, selector_name, judge, n):
    """Expected judge's score of the selected candidate of n, over all subsets; failed and endless candidates count as
    worst."""

    def metric(candidate):
        score = candidate.scores[judge.name]
        return judge.worst_score if math.isnan(score) or not candidate.stopped else score

    def value(candidate):
        score = metric(candidate) if selector_name.startswith("oracle") else candidate.scores[selector_name]
        return -math.inf if math.isnan(score) else score

    total, num_subsets = 0.0, 0
    for subset in itertools.combinations(trace.candidates, n):
        best = max(map(value, subset))
        winners = [candidate for candidate in subset if value(candidate) == best]
        total += sum(map(metric, winners)) / len(winners)
        num_subsets += 1
    return total / num_subsets


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep over two prompt sets; the sampler and the callback are kept for inspection."""
    folder = tmp_path_factory.mktemp("sweep")
    prompts, sampler = toy_prompts(11), ToySampler()
    callback = callback_in(folder)
    run(folder, {"short": prompts[:7], "long": prompts[7:]}, callback, sampler, CSVLogger(folder, "log"))
    return SimpleNamespace(folder=folder, callback=callback, results=callback.results, sampler=sampler)


def test_curves_equal_brute_force(finished):
    """Guards against curves that mix up prompts, selectors or judges, and against failures excluded from the mean."""
    judges = {judge.name: judge for judge in finished.callback.judges}
    num_checked = 0
    for point in finished.results.points:
        if point.judge == "expensive":
            continue
        traces = finished.results.traces(point.prompt_set)
        n, selector = (1, "mean") if point.selector == "random" else (point.n, point.selector)
        expected = np.mean([brute_force(trace, selector, judges[point.judge], n) for trace in traces])
        assert point.score == pytest.approx(expected, abs=1e-9), point
        assert point.low <= point.score <= point.high
        assert point.num_prompts == len(traces)
        num_checked += 1
    assert num_checked == 2 * 4 * (4 + 5)  # sets, counts, lines of `judge` (without twin) and of `mean`


def test_failures_and_runaways_are_counted(finished):
    """Guards against candidates dropped without being counted."""
    candidates = [one for trace in finished.results.traces("short") for one in trace.candidates]
    runaways = [one for one in candidates if not one.stopped]
    unjudged = [one for one in candidates if one.stopped and math.isnan(one.scores["judge"])]
    assert runaways and unjudged
    for point in finished.results.points:
        if (point.prompt_set, point.judge) == ("short", "judge"):
            assert (point.num_runaways, point.num_unjudged) == (len(runaways), len(unjudged))
            if point.selector == "random":
                judged = [
                    one.scores["judge"] for one in candidates if one.stopped and not math.isnan(one.scores["judge"])
                ]
                assert point.score_judged_only == pytest.approx(np.mean(judged))


def test_a_judge_of_the_same_model_appears_only_as_the_oracle(finished):
    """Guards against a verifier that judges its own selection on a line not labelled as oracle."""
    lines = {(point.selector, point.judge) for point in finished.results.points}
    assert ("twin", "judge") not in lines
    assert {selector for selector, judge in lines if judge == "judge"} == {"random", "first", "gaps", "oracle (judge)"}
    assert {selector for selector, judge in lines if judge == "mean"} == {
        "random",
        "first",
        "gaps",
        "twin",
        "oracle (mean)",
    }
    assert {point.n for point in finished.results.points if point.judge == "expensive"} == {1, NUM_CANDIDATES}


def test_final_judge_scores_the_selected(finished):
    """Guards against a final judge's point for another candidate than the selected one."""
    worst = finished.callback.final_judges[0].worst_score
    for point in finished.results.points:
        if point.judge != "expensive":
            continue
        traces = finished.results.traces(point.prompt_set)
        chosen = [
            trace.candidates[0]
            if point.n == 1 or point.selector == "random"
            else trace.candidates[chosen_index(trace.candidates, point.selector)]
            for trace in traces
        ]
        expected = [one.num_codes * 16 if one.stopped and one.num_codes else worst for one in chosen]
        assert point.score == pytest.approx(np.mean(expected))


def test_generation_is_batched_by_groups_of_prompts(finished):
    """Guards against one call of the sampler per prompt: 7 and 4 prompts in groups of 3."""
    assert finished.sampler.extended == [(size, NUM_CANDIDATES) for size in (3, 3, 1, 3, 1)]
    assert not finished.sampler.alive


def test_files_and_logged_scalars(finished):
    """Guards against a report that differs from the results in memory."""
    with (finished.folder / "report" / "curve.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    first_columns = ["algorithm", "selector", "judge", "n", "score", "low", "high", "num_prompts"]
    assert list(rows[0])[:8] == first_columns
    assert [float(row["score"]) for row in rows] == [point.score for point in finished.results.points]
    summary = json.loads((finished.folder / "report" / "summary.json").read_text())
    for own in finished.results.swept:
        for selector, by_key in summary["chosen"][own.prompt_set].items():
            candidates = own.trace.candidates
            assert by_key[own.trace.prompt.key] == candidates[chosen_index(candidates, selector)].index
    assert set(summary["chosen"]["short"]) == set(finished.results.selectors)
    assert summary["description"]["num_prompts"] == {"short": 7, "long": 4}
    roles = {one["name"]: one["roles"] for one in summary["description"]["verifiers"]}
    assert roles["twin"] == ["selector"] and roles["expensive"] == ["final judge"]
    assert {name for own in finished.results.swept for _, name in own.hypotheses} == {"judge"}
    with (finished.folder / "report" / "candidates.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 11 * NUM_CANDIDATES
    (logged,) = finished.folder.glob("log/*/metrics.csv")
    with logged.open() as stream:
        row = next(row for row in csv.DictReader(stream) if row["step"] == "4" and row["short/mean/first"])
    (point,) = (
        point
        for point in finished.results.points
        if (point.prompt_set, point.judge, point.selector, point.n) == ("short", "mean", "first", 4)
    )
    assert float(row["short/mean/first"]) == pytest.approx(point.score)


def test_traces_hold_no_audio(finished):
    """Guards against a sweep whose memory grows with every candidate."""
    assert all(one.audio is None for own in finished.results.swept for one in own.trace.candidates)


def test_a_stopped_test_resumes_to_the_same_results(tmp_path, finished):
    """Guards against a restart that samples stored prompts again or changes the curves."""
    prompts = toy_prompts(11)
    prompt_sets = {"short": prompts[:7], "long": prompts[7:]}
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(tmp_path, prompt_sets, callback_in(tmp_path), ToySampler(fail_at_call=3))
    sampler = ToySampler()
    results = run(tmp_path, prompt_sets, callback_in(tmp_path), sampler)
    assert sampler.extended == [(1, NUM_CANDIDATES), (3, NUM_CANDIDATES), (1, NUM_CANDIDATES)]
    assert timeless(results.points) == timeless(finished.results.points)
    hypotheses = [[one.hypotheses for one in each.swept] for each in (results, finished.results)]
    assert hypotheses[0] == hypotheses[1]
    chosen = [
        [chosen_index(one.trace.candidates, name) for one in each.swept for name in each.selectors]
        for each in (results, finished.results)
    ]
    assert chosen[0] == chosen[1]


def test_another_codebook_is_refused_before_sampling(tmp_path):
    """Guards against hours of sampling codes that are invalid for the codec."""
    sampler = ToySampler()
    with pytest.raises(ValueError, match="codebook_size=17, but got 16"):
        run(tmp_path, {"one": toy_prompts(2)}, callback_in(tmp_path), sampler, codebook_size=17)
    assert sampler.extended == []


def test_two_ranks_share_the_prompts_and_rank_0_merges(tmp_path, finished):
    """Guards against ranks that sample every prompt twice, and results that depend on the number of ranks."""
    prompts = toy_prompts(11)
    callback = callback_in(tmp_path)

    class Counting(ToySampler):
        def extend(self, branches, num_children, max_new_tokens, seeds):
            for branch in branches:
                rank = torch.distributed.get_rank()
                (tmp_path / f"drawn-{branch.prompt.key}-by-{rank}").touch(exist_ok=False)
            return super().extend(branches, num_children, max_new_tokens, seeds)

    prompt_sets = {"short": prompts[:7], "long": prompts[7:]}
    run(
        tmp_path,
        prompt_sets,
        callback,
        Counting(),
        strategy="ddp_fork",
        devices=2,
        use_distributed_sampler=False,
    )
    drawn = sorted(path.name for path in tmp_path.glob("drawn-*"))
    assert len(drawn) == 11 and {name[-1] for name in drawn} == {"0", "1"}
    assert len(list(CandidateStore(tmp_path / "candidates").folder.glob("*.json"))) == 11
    ours, theirs = [
        list(csv.DictReader((folder / "report" / "curve.csv").open())) for folder in (tmp_path, finished.folder)
    ]
    assert all(row.pop("seconds") for row in [*ours, *theirs])
    assert ours == theirs
