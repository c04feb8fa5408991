"""Sweep: samples missing candidates, computes missing scores of every verifier, and stores both."""

import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from modules.api import (
    Candidate,
    Codec,
    CombinesVerifiers,
    Cost,
    Prompt,
    PromptFormat,
    Sampler,
    SamplerEngine,
    SamplingSettings,
    Transcribes,
    Verifier,
)
from modules.search.candidate_store import CandidateRecord, CandidateStore
from modules.search.costs import estimated_cost
from modules.search.driver import Progress, check_selectors, no_progress, run_searches, score_with_cost
from modules.search.identity import candidate_identity, score_identity
from modules.search.panel import Panel, chosen_index
from modules.search.protocol import SearchAlgorithm
from modules.search.scoring import ScoreFailure, decode_candidates

logger = logging.getLogger(__name__)


@dataclass
class Sweep:
    """The sweep of one model in one setting, over any number of prompts.

    `run` may be killed at any time: stored candidates are neither sampled nor scored again. Scores by another version
    of a verifier, with another decoder or another reference recording are not reused; the codes are. `engine`: the
    engine of the sampler, if it is not the model's own; its candidates are stored separately.
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
    failures: set[ScoreFailure] = field(default_factory=set)
    most_flops: float | None = None
    engine: SamplerEngine | None = None

    def __post_init__(self) -> None:
        check_selectors(self.algorithm, self.panel.selectors)
        self._decoder = self.codec.decoder_fingerprint

    def run(
        self, prompts: Sequence[Prompt], sampler: Sampler, prompts_per_group: int = 8, progress: Progress = no_progress
    ) -> None:
        """Sample and score all prompts, `prompts_per_group` at a time, and store the results.

        Logs an upper bound of the cost first: `most_flops` is the search's bound per prompt, averaged over the prompts;
        over several calls, the largest.
        """
        if prompts:
            bounds = [self.estimated_cost(prompt, sampler).flops for prompt in prompts]
            self.most_flops = max(self.most_flops or 0.0, sum(bounds) / len(bounds), key=_unknown_last)
            logger.info("%s: at most %.3g FLOPs a prompt", self.algorithm.name, sum(bounds) / len(bounds))
        for start in range(0, len(prompts), prompts_per_group):
            group = prompts[start : start + prompts_per_group]
            self._run_group(group, sampler, lambda stage, _: progress(stage, 0))
            progress("stored", len(group))

    def estimated_cost(self, prompt: Prompt, sampler: Sampler, num_codes: int = sys.maxsize) -> Cost:
        """Cost of the search for a prompt if its candidates have `num_codes` codes; the default is the maximum cost."""
        estimate = self.algorithm.estimate(num_codes)
        num_voice_codes = len(prompt.voice.codes) if prompt.voice else 0
        sizes = (sampler.num_prompt_tokens(prompt), num_voice_codes)
        return estimated_cost(estimate, sampler, self.codec, self.panel.selectors, *sizes)

    def record(self, prompt: Prompt) -> CandidateRecord:
        """Load a finished prompt from the store. Scores that a verifier failed to compute are NaN.

        Raises:
            RuntimeError: The prompt is not in the store.
        """
        record = self._load(prompt)
        if record is None:
            raise RuntimeError(
                f"Expected the candidates of prompt {prompt.key!r} in {self.store.folder}, but found none. "
                "Ranks must share the run folder."
            )
        for candidate in record.trace.candidates:
            for verifier in self.panel.for_all:
                self._nan_if_failed(candidate, verifier.facts.name)
        for candidate in self._first_and_chosen(record):
            for verifier in self.panel.final_judges:
                self._nan_if_failed(candidate, verifier.facts.name)
        return record

    def _nan_if_failed(self, candidate: Candidate, verifier_name: str) -> None:
        """Set a missing score to NaN: the store has NaN for what cannot be scored, and omits failures of any rank."""
        if verifier_name not in candidate.scores:
            candidate.scores[verifier_name] = math.nan
            self.failures.add((candidate.prompt_key, candidate.index, verifier_name))

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
        self.store.save(self._identity(record.trace.prompt), record, self.failures)

    def _run_group(self, prompts: Sequence[Prompt], sampler: Sampler, progress: Progress) -> None:
        loaded = {prompt.key: self._load(prompt) for prompt in prompts}
        fresh = [prompt for prompt in prompts if loaded[prompt.key] is None]
        for trace in run_searches(
            fresh,
            self.algorithm,
            sampler,
            self.codec,
            self.panel.selectors,
            self.seed,
            self.decode_batch_size,
            progress,
            self.failures,
        ):
            record = CandidateRecord(trace, self._score_identities(trace.prompt))
            loaded[trace.prompt.key] = record
            self._save(record)
        records = [loaded[prompt.key] for prompt in prompts]
        changed = self._ask_all(records, progress) | self._ask_about_chosen(records, progress)
        for record in records:
            if record.trace.prompt.key in changed:
                self._save(record)

    def _ask_all(self, records: Sequence[CandidateRecord], progress: Progress) -> set[str]:
        """Score with every selector and judge all candidates without its score; returns keys of changed prompts."""
        return self._ask(records, self.panel.for_all, lambda record: record.trace.candidates, progress)

    def _ask_about_chosen(self, records: Sequence[CandidateRecord], progress: Progress) -> set[str]:
        """Compute final-judge scores and transcripts for the first candidate and the selected ones."""
        changed = self._ask(records, self.panel.final_judges, self._first_and_chosen, progress)
        writers = [verifier for verifier in self.panel.everyone if isinstance(verifier, Transcribes)]
        for record in records:
            for verifier in writers:
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

    def _ask(
        self,
        records: Sequence[CandidateRecord],
        verifiers: Sequence[Verifier],
        candidates_of: Callable[[CandidateRecord], list[Candidate]],
        progress: Progress,
    ) -> set[str]:
        missing = {verifier.facts.name: [] for verifier in verifiers}
        for verifier in verifiers:
            for record in records:
                candidates = candidates_of(record)
                own = [one for one in candidates if verifier.facts.name not in one.scores]
                if own:  # relative scores must be computed for all candidates together
                    missing[verifier.facts.name].append(
                        (record.trace.prompt, candidates if isinstance(verifier, CombinesVerifiers) else own)
                    )
        undecoded = {id(one): one for tasks in missing.values() for _, own in tasks for one in own}
        if undecoded:
            progress("decoding", 0)
            decode_candidates(list(undecoded.values()), self.codec, self.decode_batch_size)
        for verifier in verifiers:
            if tasks := missing[verifier.facts.name]:
                progress(verifier.facts.name, 0)
                self._score(verifier, [prompt for prompt, _ in tasks], [own for _, own in tasks])
        return {prompt.key for tasks in missing.values() for prompt, _ in tasks}

    def _score(self, verifier: Verifier, prompts: list[Prompt], groups: list[list[Candidate]]) -> None:
        tasks = zip(prompts, groups, strict=True)
        self.failures -= {(prompt.key, one.index, verifier.facts.name) for prompt, group in tasks for one in group}
        self.failures |= score_with_cost(prompts, groups, verifier, self.codec)

    def _first_and_chosen(self, record: CandidateRecord) -> list[Candidate]:
        candidates = record.trace.candidates
        places = {0} | {chosen_index(candidates, selector.facts.name) for selector in self.panel.selectors}
        return [candidates[place] for place in sorted(places)]

    def _write_hypotheses(self, record: CandidateRecord, verifier: Any, candidates: list[Candidate]) -> None:
        decode_candidates(candidates, self.codec, self.decode_batch_size)
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
