"""Sweep: samples missing candidates, computes missing scores of every verifier, and stores both."""

import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from modules.api import (
    Candidate,
    Codec,
    Cost,
    Prompt,
    PromptFormat,
    Sampler,
    SamplerEngine,
    SamplingSettings,
    Transcribes,
    Verifier,
)
from modules.members import check_members
from modules.search.candidate_store import CandidateRecord, CandidateStore
from modules.search.costs import estimated_cost
from modules.search.driver import check_selectors, run_searches
from modules.search.identity import candidate_identity, score_identity
from modules.search.panel import Panel, chosen_index
from modules.search.protocol import SearchAlgorithm
from modules.search.scorer import Progress, Scorer, no_progress

logger = logging.getLogger(__name__)


@dataclass
class Sweep:
    """The sweep of one model in one setting, over any number of prompts.

    `run` may be killed at any time: stored candidates are neither sampled nor scored again. Scores by another version
    of a verifier, with another decoder or another reference recording are not reused; the codes are. `engine`: the
    engine of the sampler, if it is not the model's own; its candidates are stored separately. `model_name`:
    the model's name in tables, if there are several.
    """

    codec: Codec
    algorithm: SearchAlgorithm
    sampling: SamplingSettings
    panel: Panel
    store: CandidateStore
    model_hash: str
    seed: int
    _: KW_ONLY
    prompt_format: PromptFormat
    decode_batch_size: int = 16
    most_flops: float | None = None
    engine: SamplerEngine | None = None
    model_name: str = ""

    def __post_init__(self) -> None:
        check_selectors(self.algorithm, self.panel.selectors)
        self._scorer = Scorer(self.codec, self.decode_batch_size)
        self._decoder = self.codec.decoder_fingerprint

    def run(
        self, prompts: Sequence[Prompt], sampler: Sampler, prompts_per_group: int = 8, progress: Progress = no_progress
    ) -> int:
        """Sample and score all prompts, `prompts_per_group` at a time, and store the results. Returns the number of
        scores that failed; these are not stored.

        Logs an upper bound of the cost first: `most_flops` is the search's bound per prompt, averaged over the prompts;
        over several calls, the largest.
        """
        check_members(sampler, Sampler, "sampler")
        if prompts:
            bounds = [self.estimated_cost(prompt, sampler).flops for prompt in prompts]
            self.most_flops = max(self.most_flops or 0.0, sum(bounds) / len(bounds), key=_unknown_last)
            logger.info("%s: at most %.3g FLOPs a prompt", self.algorithm.name, sum(bounds) / len(bounds))
        num_failures = 0
        for start in range(0, len(prompts), prompts_per_group):
            group = prompts[start : start + prompts_per_group]
            num_failures += self._run_group(group, sampler, lambda stage, _: progress(stage, 0))
            progress("stored", len(group))
        return num_failures

    def estimated_cost(self, prompt: Prompt, sampler: Sampler, num_codes: int = sys.maxsize) -> Cost:
        """Cost of the search for a prompt if its candidates have `num_codes` codes; the default is the maximum cost."""
        estimate = self.algorithm.estimate(num_codes)
        num_voice_codes = len(prompt.voice.codes) if prompt.voice else 0
        sizes = (sampler.num_prompt_tokens(prompt), num_voice_codes)
        return estimated_cost(estimate, sampler, self.codec, self.panel.selectors, *sizes)

    def record(self, prompt: Prompt) -> CandidateRecord:
        """Load a finished prompt from the store. Scores that a verifier failed to compute, in a run of any rank, are
        NaN and marked as failed: the store does not have them.

        Raises:
            RuntimeError: The prompt is not in the store.
        """
        record = self._load(prompt)
        if record is None:
            raise RuntimeError(
                f"Expected the candidates of prompt {prompt.key!r} in {self.store.folder}, but found none. "
                "Ranks must share the run folder."
            )
        expected = [(record.trace.candidates, self.panel.for_all)]
        expected += [(self._first_and_chosen(record), self.panel.final_judges)]
        for candidates, verifiers in expected:
            for candidate in candidates:
                missing = {one.facts.name for one in verifiers} - set(candidate.scores)
                candidate.scores |= dict.fromkeys(missing, math.nan)
                candidate.failed |= missing
        return record

    def _identity(self, prompt: Prompt) -> dict[str, Any]:
        identities = self._score_identities(prompt)
        steering = {name: identities[name] for name in self.algorithm.verifier_names}
        drawn_by = (self.sampling, self.algorithm, self.seed, steering, self.engine)
        return candidate_identity(self.model_hash, self.prompt_format, self.codec, prompt, *drawn_by)

    def _score_identities(self, prompt: Prompt) -> dict[str, str]:
        return {one.facts.name: score_identity(one, prompt, self._decoder) for one in self.panel.everyone}

    def _load(self, prompt: Prompt) -> CandidateRecord | None:
        record = self.store.load(self._identity(prompt), prompt)
        if record is not None:
            record.forget_scores_of_others(self._score_identities(prompt))
        return record

    def _save(self, record: CandidateRecord) -> None:
        self.store.save(self._identity(record.trace.prompt), record)

    def _run_group(self, prompts: Sequence[Prompt], sampler: Sampler, progress: Progress) -> int:
        loaded = {prompt.key: self._load(prompt) for prompt in prompts}
        # 1. Sample what is missing.
        missing = [prompt for prompt in prompts if loaded[prompt.key] is None]
        for trace in run_searches(
            missing, self.algorithm, sampler, self._scorer, self.panel.selectors, self.seed, progress
        ):
            loaded[trace.prompt.key] = CandidateRecord(trace, self._score_identities(trace.prompt))
            self._save(loaded[trace.prompt.key])
        # 2. Score what is missing: all candidates, then the first and the selected ones.
        records = list(loaded.values())
        changed = self._score(records, self.panel.for_all, lambda record: record.trace.candidates, progress)
        changed |= self._score(records, self.panel.final_judges, self._first_and_chosen, progress)
        changed |= self._transcribe(records, progress)
        # 3. Save.
        for record in records:
            if record.trace.prompt.key in changed:
                self._save(record)
        return sum(len(one.failed) for record in records for one in record.trace.candidates)

    def _score(
        self,
        records: Sequence[CandidateRecord],
        verifiers: Sequence[Verifier],
        candidates_of: Callable[[CandidateRecord], list[Candidate]],
        progress: Progress,
    ) -> set[str]:
        """Compute missing scores; returns the keys of the prompts that got some."""
        tasks = [(record.trace.prompt, candidates_of(record)) for record in records]
        scored = [one for verifier in verifiers for one in self._scorer.score_missing(tasks, verifier, progress)]
        return {candidate.prompt_key for candidate in scored}

    def _transcribe(self, records: Sequence[CandidateRecord], progress: Progress) -> set[str]:
        """Add missing transcripts of the first candidate and the selected ones; returns the keys of changed prompts."""
        changed = set()
        for record in records:
            for verifier in self.panel.everyone:
                if not isinstance(verifier, Transcribes):
                    continue
                silent = [
                    one
                    for one in self._first_and_chosen(record)
                    if (one.index, verifier.facts.name) not in record.hypotheses and one.num_codes
                ]
                if silent:
                    progress(f"{verifier.facts.name} hypotheses", 0)
                    self._write_hypotheses(record, verifier, silent)
                    changed.add(record.trace.prompt.key)
        return changed

    def _first_and_chosen(self, record: CandidateRecord) -> list[Candidate]:
        candidates = record.trace.candidates
        places = {0} | {chosen_index(candidates, selector.facts.name) for selector in self.panel.selectors}
        return [candidates[place] for place in sorted(places)]

    def _write_hypotheses(self, record: CandidateRecord, verifier: Any, candidates: list[Candidate]) -> None:
        self._scorer.decode(candidates)
        try:
            texts = verifier.hypotheses(record.trace.prompt, candidates)
        except Exception as error:  # noqa: BLE001 - transcripts only illustrate the report; continue without them
            logger.warning("%s returned no hypotheses for %s: %r", verifier.facts.name, record.trace.prompt.key, error)
            return
        for candidate, text in zip(candidates, texts, strict=True):
            record.hypotheses[candidate.index, verifier.facts.name] = text


def _unknown_last(flops: float) -> float:
    """Sort key for `max` that treats NaN as infinity: an unknown cost may be any number."""
    return math.inf if math.isnan(flops) else flops
