"""InferenceScaling: the verifier-scored sweep as a callback of `trainer.test`, a thin wrapper of modules/search."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from tqdm import tqdm

from callbacks.gathered_prompts import gathered_prompts
from modules.api import Codec, Prompt, Sampler, SamplerEngine, SamplingSettings, Verifier
from modules.batches import NamesPromptSets, PromptBatch
from modules.members import check_members
from modules.search.analysis.candidate_tables import write_candidates
from modules.search.analysis.comparisons import Comparison, line_label, selector_label
from modules.search.analysis.equal_compute import EqualCompute
from modules.search.analysis.overoptimisation import OverOptimisation
from modules.search.analysis.pitch_scores import PitchScore
from modules.search.analysis.results import (
    SeedScore,
    SweepResults,
    write_curves,
    write_prompt_scores,
    write_rows,
    write_summary,
)
from modules.search.candidate_store import CandidateStore
from modules.search.driver import check_selectors
from modules.search.identity import check_codec
from modules.search.panel import Panel, unique_prompts
from modules.search.protocol import SearchAlgorithm, SpeechModel, SweptModel
from modules.search.scorer import check_texts
from modules.search.summary import summarise
from modules.search.sweep import Sweep

logger = logging.getLogger(__name__)


class InferenceScaling(Callback):
    """Samples candidates of every test prompt, selects and judges with verifiers, and computes curves of best-of-n.

    Every test dataloader is a prompt set; its batches are PromptBatch. The datamodule may name the sets
    (`prompt_set_names`: one per dataloader); otherwise they are called `name`, or `name 0`, `name 1` ... The module
    under test is a SpeechModel (modules/search/protocol.py). `codec` encodes the recordings of voice prompts.

    Writes `folder`/candidates (the store: a stopped sweep resumes from it; another selector needs no new samples) and
    `report_folder` (docs/sweeps.md lists its files), and logs every point with step = n as
    "PROMPT SET/JUDGE/SELECTOR". After the test `results` is the SweepResults, on rank 0 only.

    With several ranks each processes a stride of all prompts; they must share `folder`, and wait for the slowest
    (configs/sweep/ranks.yaml: longer than Lightning's half an hour). Runs that divide the prompts (`share`,
    `num_shares`) must share it too and write no report. The same run without shares, afterwards, finds all candidates
    in the store.

    Args:
        codec: Decodes codes to audio.
        algorithm: The search. Its number of candidates is N; curves have n = 1, 2, 4, ... N.
        sampling: Sampling settings.
        selectors: Verifiers that select. None judges its own selection (the same `model_hash` is the same verifier),
            except with `self_judged`.
        judges: Verifiers that score the curves. Each also has the line "oracle (NAME)": selection by the judge itself.
        folder: The run's folder.
        seed: Seed of the candidates and of the bootstrap.
        name: Name of the prompt set, if the datamodule has none.
        final_judges: Expensive judges: score only the first candidate and the selected ones.
        prompts_per_group: Prompts that are sampled in one batch: N times as many sequences.
        decode_batch_size: Candidates per batch of the codec.
        num_resamples: Number of bootstrap resamples over prompts.
        more_algorithms: Searches to run in addition to `algorithm` on the same prompts: their points are in curve.csv,
            comparisons.csv and, compared with BestOfN at equal FLOPs, equal_compute.csv; the figures show `algorithm`
            at the temperature of `sampling`.
        more_temperatures: Temperatures at which every algorithm is run, in addition to that of `sampling`.
        more_seeds: Seeds with which everything is run, in addition to `seed`: curves are then means over the seeds,
            with their standard deviation; the points of every seed are in seeds.csv.
        share: Index of this run among `num_shares`, from 0.
        num_shares: Number of runs that write to one store in parallel, with any number of ranks each.
        engine: Sampling engine in place of the model's own sampler: modules.lm.sampling.vllm_engine.VLLM.
        more_models: modules.lm.saved_model.SavedModel: models to run everything with, in addition to the one under
            test. Each is loaded when needed and freed afterwards; tables and comparisons then name the models.
        model_name: Name of the model under test in tables, if there are others.
        self_judged: Judges select too, and may steer. The lines in which the judge's own model selected or steered, as
            in the Llasa paper's tables, are added under names that end in "(self-judged, as in the paper)".
        report_folder: Folder of the report; None: `folder`/report.

    Raises:
        ValueError: Two different verifiers or two models have the same name, there is no judge, the codebook differs
            from a model's, there are no prompts, or a prompt's text is empty after a verifier's normalisation.
    """

    def __init__(
        self,
        codec: Codec,
        algorithm: SearchAlgorithm,
        sampling: SamplingSettings,
        selectors: list[Verifier],
        judges: list[Verifier],
        folder: Path,
        seed: int = 0,
        name: str = "prompts",
        final_judges: list[Verifier] | None = None,
        prompts_per_group: int = 8,
        decode_batch_size: int = 16,
        num_resamples: int = 2000,
        more_algorithms: list[SearchAlgorithm] | None = None,
        more_temperatures: list[float] | None = None,
        share: int = 0,
        num_shares: int = 1,
        engine: SamplerEngine | None = None,
        more_seeds: list[int] | None = None,
        more_models: list[SweptModel] | None = None,
        model_name: str = "under test",
        self_judged: bool = False,
        report_folder: Path | None = None,
    ) -> None:
        for argument, value in (("prompts_per_group", prompts_per_group), ("decode_batch_size", decode_batch_size)):
            if value < 1:
                raise ValueError(f"Expected `{argument}` to be at least 1, but got {value}.")
        if not 0 <= share < num_shares:
            raise ValueError(f"Expected `share` to be one of `num_shares`={num_shares} from 0, but got {share}.")
        self.codec = codec
        self.algorithm = algorithm
        self.sampling = sampling
        self.selectors = selectors
        self.judges = judges
        self.final_judges = final_judges or []
        self.self_judged = self_judged
        self.folder = Path(folder)
        self.report_folder = Path(report_folder) if report_folder else self.folder / "report"
        self.seed = seed
        self.name = name
        self.prompts_per_group = prompts_per_group
        self.decode_batch_size = decode_batch_size
        self.num_resamples = num_resamples
        self.share, self.num_shares = share, num_shares
        self.algorithms = [algorithm, *(more_algorithms or [])]
        self.temperatures = [sampling.temperature, *(more_temperatures or [])]
        self.seeds = [seed, *(more_seeds or [])]
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"Expected `more_seeds` distinct and without `seed`={seed}, but got {more_seeds}.")
        self.engine = engine
        self.more_models, self.model_name = more_models or [], model_name
        names = [model_name, *(model.name for model in self.more_models)]
        if len(set(names)) < len(names):
            raise ValueError(f"Expected `more_models` of different names, none of them `model_name`, but got {names}.")
        self.results: SweepResults | None = None
        self._prompts: dict[int, list[Prompt]] = {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the settings before the first sample is drawn."""
        self.results, self._prompts = None, {}
        self.panel = Panel(self.selectors, self.judges, self.final_judges, self.self_judged)
        for algorithm in self.algorithms:
            check_selectors(algorithm, self.panel.selectors)
        for name, model in [(self.model_name, pl_module), *((model.name, model) for model in self.more_models)]:
            check_members(model, SpeechModel, f"the model {name},")
            try:
                codebook_size = model.prompt_format.token_space.codebook_size
                check_codec(self.codec, codebook_size, model.codec_fingerprint)
            except ValueError as error:
                raise ValueError(f"The model {name}: {error}") from error
        if self.engine is not None:
            check_members(self.engine, SamplerEngine, "sampling engine")
            logger.info("Sampling engine: %s.", self.engine.identity())

    @torch.inference_mode()
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PromptBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the prompts; sampling starts once all are known, so that ranks can divide them."""
        if not isinstance(batch, PromptBatch):
            raise TypeError(f"Expected test batches to be PromptBatch, but got {type(batch).__name__}.")
        self._prompts.setdefault(dataloader_idx, []).extend(batch.prompts)

    @torch.inference_mode()
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        prompt_sets = self._prompt_sets(trainer)
        # One for all sweeps, so that messages are logged once.
        self._store = CandidateStore(self.folder / "candidates", reports_older=trainer.is_global_zero)
        settings = [(algorithm, temperature) for temperature in self.temperatures for algorithm in self.algorithms]
        searches: list[list[Sweep]] = []  # of each model and setting, a sweep of each seed
        num_failures = 0
        for name, model in self._models(pl_module):
            for setting in settings:
                searches.append([self._sweep(name, model, *setting, seed) for seed in self.seeds])
                for sweep in searches[-1]:
                    sampler = model.sampler(sweep.sampling, engine=self.engine)
                    num_failures += self._run(trainer, sweep, sampler, prompt_sets)
        trainer.strategy.barrier("inference_scaling")
        if num_failures:
            logger.warning("%d scores failed with an exception; run again to retry them.", num_failures)
        if self.num_shares > 1:
            logger.info("share %d of %d is stored; run without shares to report", self.share, self.num_shares)
        elif trainer.is_global_zero:
            self.results = summarise(searches, prompt_sets, self.seed, self.num_resamples)
            write_tables(self.results, self.panel.columns, self.report_folder)
            log_points(trainer.loggers, self.results)

    def _models(self, pl_module: LightningModule) -> Iterator[tuple[str, Any]]:
        """Every model with its name (empty if it is the only one); the others are loaded one at a time."""
        yield self.model_name if self.more_models else "", pl_module
        for model in self.more_models:
            model.load(pl_module.device, pl_module.dtype)
            yield model.name, model
            model.free()

    def _sweep(self, name: str, model: Any, algorithm: SearchAlgorithm, temperature: float, seed: int) -> Sweep:
        sampling = replace(self.sampling, temperature=temperature)
        about = (self.panel, self._store, model.model_hash, seed)
        how = {"decode_batch_size": self.decode_batch_size, "engine": self.engine, "model_name": name}
        return Sweep(self.codec, algorithm, sampling, *about, **how, prompt_format=model.prompt_format)

    def _run(self, trainer: Trainer, sweep: Sweep, sampler: Sampler, prompt_sets: dict[str, list[Prompt]]) -> int:
        """Run the sweep on this rank's stride of this share's stride of every prompt set; returns how many scores
        failed."""
        num_failures = 0
        is_alone = len(self.algorithms) * len(self.temperatures) * len(self.seeds) == 1 and not sweep.model_name
        own = f"{sweep.model_name} {sweep.algorithm.name} T={sweep.sampling.temperature:g} seed {sweep.seed} "
        setting = "" if is_alone else own.lstrip()
        for prompt_set, prompts in prompt_sets.items():
            own = prompts[self.share :: self.num_shares][trainer.global_rank :: trainer.world_size]
            with tqdm(total=len(own), unit="prompt", smoothing=0, disable=not trainer.is_global_zero) as bar:

                def show(stage: str, num_finished: int, label: str = setting + prompt_set, bar: tqdm = bar) -> None:
                    bar.set_description(f"{label}: {stage}")
                    bar.update(num_finished)

                num_failures += sweep.run(own, sampler, self.prompts_per_group, show)
        return num_failures

    def _prompt_sets(self, trainer: Trainer) -> dict[str, list[Prompt]]:
        """All prompts of all ranks by set."""
        by_loader = gathered_prompts(self._prompts, self.codec, trainer.global_rank, trainer.world_size)
        unique_prompts([prompt for prompts in by_loader.values() for prompt in prompts])  # keys, across all sets
        if not by_loader:
            raise ValueError("Expected the test dataloaders to give at least one prompt, but got none.")
        check_texts([prompt for prompts in by_loader.values() for prompt in prompts], self.panel.everyone)
        names = self._prompt_set_names(trainer, num_sets=max(by_loader) + 1)
        return {names[index]: unique_prompts(prompts) for index, prompts in by_loader.items()}

    def _prompt_set_names(self, trainer: Trainer, num_sets: int) -> Sequence[str]:
        data = getattr(trainer, "datamodule", None)
        names = data.prompt_set_names if isinstance(data, NamesPromptSets) else None
        if names is None:
            return [self.name] if num_sets == 1 else [f"{self.name} {index}" for index in range(num_sets)]
        if len(names) < num_sets or len(set(names)) < len(names):
            raise ValueError(f"Expected `prompt_set_names` to hold {num_sets} different names, but got {list(names)}.")
        return names


def write_tables(results: SweepResults, verifier_names: Sequence[str], report: Path) -> None:
    """Write the files of the folder `report`."""
    write_curves(results.points, report / "curve.csv")
    write_prompt_scores(results, report / "prompts.csv")
    write_summary(results, report / "summary.json")
    write_rows(results.comparisons, Comparison, report / "comparisons.csv")
    write_rows(results.equal_compute, EqualCompute, report / "equal_compute.csv")
    write_rows(results.over_optimisation, OverOptimisation, report / "over_optimisation.csv")
    if results.seed_scores:
        write_rows(results.seed_scores, SeedScore, report / "seeds.csv")
    if results.pitch_scores:
        write_rows(results.pitch_scores, PitchScore, report / "pitch.csv")
    write_candidates(results.swept, verifier_names, report)


def log_points(loggers: Sequence[Logger], results: SweepResults) -> None:
    """Log every finite point at step = n; the tags of searches after the first include their settings."""
    num_first = len(results.first_points)
    for one in loggers:
        for place, point in enumerate(results.points):
            label = selector_label(point) if place < num_first else line_label(point)
            if math.isfinite(point.score):  # else a chart stays blank
                one.log_metrics({f"{point.prompt_set}/{point.judge}/{label}": point.score}, step=point.n)
        one.save()
