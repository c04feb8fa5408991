"""SpokenTexts: synthesises a few texts during language model training, and measures the gain of best-of-n."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.media import log_audio, log_figure
from modules.api import Codec, Prompt, SamplingSettings, Verifier, models_of
from modules.members import check_members
from modules.report.figures import mel_figure
from modules.search.algorithms.best_of_n import BestOfN
from modules.search.analysis.curves import scores_of
from modules.search.analysis.expected_best_of_n import JudgedPrompt, expected_scores, selection_weights
from modules.search.analysis.families import shared_families
from modules.search.driver import run_searches
from modules.search.identity import check_codec
from modules.search.panel import chosen_index
from modules.search.protocol import Trace
from modules.search.scorer import Scorer, check_texts

logger = logging.getLogger(__name__)


class SpokenTexts(Callback):
    """Draws `num_candidates` samples of each text after every `every_n_validations`-th validation, with the same seeds.

    Logs the first sample of each, and the one that `selector` selects, as audio and mel spectrograms
    (`val/spoken/TEXT`), and with a `judge` the mean score of one sample and of the best of all
    (`val/best_of_n/JUDGE/n=1`, `.../n=N`), which shows whether search still helps as training proceeds. Samples that
    never ended, or could not be scored, count as the worst score. The module provides `sampler(settings)` and
    `prompt_format`. The run's random state is not changed.

    Rank zero samples and the others wait. Under a sharding strategy nothing is synthesised, because whole weights are
    required: run a sweep over a checkpoint instead.

    Args:
        codec: Decodes codes to audio.
        texts: Texts to synthesise.
        sampling: Sampling settings.
        max_new_tokens: Maximum length of a sample.
        num_candidates: Samples of each text.
        selector: Verifier that selects. None: only the first sample is logged.
        judge: Scores the selected samples; must use another model than the selector. A judge of the selector's family
            is labelled in the log.
        every_n_validations: Interval in validations.
        language: Language of the texts.
        seed: Seed of the samples.
        speaker: Requested speaker, if the prompt format has speakers.

    Raises:
        ValueError: The selector is the judge; there are no texts, a text is empty after normalisation, or there are too
            few candidates for a selection.
    """

    def __init__(
        self,
        codec: Codec,
        texts: list[str],
        sampling: SamplingSettings,
        max_new_tokens: int,
        num_candidates: int = 4,
        selector: Verifier | None = None,
        judge: Verifier | None = None,
        every_n_validations: int = 1,
        language: str = "en",
        seed: int = 0,
        speaker: str = "",
    ) -> None:
        if not texts:
            raise ValueError("Expected `texts` to have at least one text, but got none.")
        if every_n_validations < 1:
            raise ValueError(f"Expected `every_n_validations` to be at least 1, but got {every_n_validations}.")
        if selector is not None and num_candidates < 2:
            raise ValueError(f"Expected `num_candidates` of 2 or more for a selection, but got {num_candidates}.")
        self.codec, self.sampling, self.seed = codec, sampling, seed
        self.prompts = [Prompt(key=f"spoken {text}", text=text, language=language, speaker=speaker) for text in texts]
        self.algorithm = BestOfN(num_candidates, max_new_tokens)
        self.selector, self.judge = selector, judge
        self.every_n_validations = every_n_validations
        self.num_validations = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the settings before the first step."""
        for verifier in (self.selector, self.judge):
            if verifier is not None:
                check_members(verifier, Verifier, "verifier")
        if self.selector is not None and self.judge is not None and models_of(self.selector) & models_of(self.judge):
            raise ValueError(
                f"Expected a `judge` of another model than the selector's, but {self.judge.facts.name} is that of "
                f"{self.selector.facts.name}."
            )
        check_texts(self.prompts, [one for one in (self.selector, self.judge) if one is not None])
        if families := self._shared_families():
            logger.warning(
                "SpokenTexts: the judge %s is of the selector's family (%s), which makes the gain look larger.",
                self.judge.facts.name,
                families,
            )
        fingerprint = getattr(getattr(trainer, "datamodule", None), "codec_fingerprint", "")
        check_codec(self.codec, pl_module.prompt_format.token_space.codebook_size, fingerprint)
        if pl_module.device_mesh is not None:
            logger.warning("SpokenTexts is disabled: the model is sharded. Sample from a checkpoint with a sweep.")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or pl_module.device_mesh is not None:
            return
        self.num_validations += 1
        if self.num_validations % self.every_n_validations == 0:
            if trainer.is_global_zero:
                self._speak(trainer, pl_module)
            trainer.strategy.barrier("spoken_texts")

    @torch.no_grad()
    def _speak(self, trainer: Trainer, pl_module: LightningModule) -> None:
        verifiers = [one for one in (self.selector, self.judge) if one is not None]
        sampler = pl_module.sampler(self.sampling)
        scorer = Scorer(self.codec)
        traces = run_searches(self.prompts, self.algorithm, sampler, scorer, verifiers, self.seed)
        scorer.decode([one for trace in traces for one in trace.candidates])
        for trace in traces:
            self._log_trace(trainer, trace)
        if self.judge is not None:
            for one in trainer.loggers:
                one.log_metrics(self._scores(traces), step=trainer.global_step)

    def _log_trace(self, trainer: Trainer, trace: Trace) -> None:
        name, heard = trace.prompt.text, [("one sample", trace.candidates[0])]
        if self.selector is not None:
            best = trace.candidates[chosen_index(trace.candidates, self.selector.facts.name)]
            heard.append((f"best of {len(trace.candidates)}", best))
        shown = [(label, one.audio) for label, one in heard if one.num_codes]
        for label, audio in shown:
            log_audio(trainer.loggers, f"val/spoken/{name}/{label}", audio, trainer.global_step)
        if shown:
            log_figure(trainer.loggers, f"val/spoken/{name}", mel_figure(shown), trainer.global_step)

    def _scores(self, traces: Sequence[Trace]) -> dict[str, float]:
        """Expected scores over the available samples."""
        name = self.judge.facts.name
        judged = [
            JudgedPrompt.from_scores(
                scores_of(trace.candidates, name),
                np.array([one.stopped for one in trace.candidates]),
                self.judge.facts.worst_score,
            )
            for trace in traces
        ]
        number = self.algorithm.num_candidates
        chance = expected_scores(judged, [np.full(number, 1 / number)] * len(traces))
        found = {f"val/best_of_n/{name}/n=1": float(chance.mean())}
        if self.selector is not None:
            weights_PN = [
                selection_weights(scores_of(trace.candidates, self.selector.facts.name), number) for trace in traces
            ]
            marked = name + (" (of the selector's family)" if self._shared_families() else "")
            found[f"val/best_of_n/{marked}/n={number}"] = float(expected_scores(judged, weights_PN).mean())
        return found

    def _shared_families(self) -> str:
        return "" if self.judge is None else shared_families(self.selector, self.judge)

    def state_dict(self) -> dict[str, Any]:
        return {"num_validations": self.num_validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.num_validations = state_dict["num_validations"]
