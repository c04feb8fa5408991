"""Sweep: samples what is not stored yet, asks every verifier what it was not asked yet, and stores the answers."""

import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
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
    Verifier,
    disagreement_name,
)
from modules.search.candidates import CandidateRecord, CandidateStore
from modules.search.driver import Progress, check_selectors, no_progress, run_searches, score_with_cost
from modules.search.identity import candidate_identity, decoder_fingerprint, plain, score_identity
from modules.search.ledger import estimated_cost
from modules.search.protocol import SearchAlgorithm, Trace
from modules.search.scoring import ScoreFailure, decode_candidates, is_comparative

logger = logging.getLogger(__name__)


def unique_prompts(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Without repeats of a key, in order. A key that stands for two texts is a ValueError: results go by key."""
    by_key: dict[str, Prompt] = {}
    for prompt in prompts:
        first = by_key.setdefault(prompt.key, prompt)
        if (first.text, first.language) != (prompt.text, prompt.language):
            raise ValueError(
                f"Expected `key` to name one prompt, but got {prompt.key!r} for {first.text!r} and for {prompt.text!r}."
            )
    return list(by_key.values())


def chosen_index(candidates: Sequence[Candidate], selector_name: str) -> int:
    """Place of the best candidate by that score. NaN ranks last; the first wins among equals."""
    scores = [candidate.scores.get(selector_name, math.nan) for candidate in candidates]
    return max(range(len(scores)), key=lambda place: -math.inf if math.isnan(scores[place]) else scores[place])


@dataclass(frozen=True)
class Panel:
    """Who chooses and who judges. `final_judges` are dear: they hear the first candidate and the chosen ones only."""

    selectors: Sequence[Verifier]
    judges: Sequence[Verifier]
    final_judges: Sequence[Verifier] = ()

    def __post_init__(self) -> None:
        if not self.judges and not self.final_judges:
            raise ValueError("Expected at least one verifier in `judges` or `final_judges`, but got none.")
        known: dict[str, Any] = {}
        for verifier in [*self.selectors, *self.judges, *self.final_judges]:
            what = (verifier.model_hash, plain(verifier.settings))
            if known.setdefault(verifier.name, what) != what:
                raise ValueError(f"Expected `name` to stand for one verifier, but got two called {verifier.name!r}.")
            if verifier.name == "random" or verifier.name.startswith("oracle ("):
                raise ValueError(f"Expected a verifier's `name` not to be a line of ours, but got {verifier.name!r}.")
            if not math.isfinite(verifier.worst_score):
                raise ValueError(
                    f"Expected `worst_score` of {verifier.name} to be finite, but got {verifier.worst_score}."
                )
        for list_name in ("selectors", "judges", "final_judges"):
            names = [verifier.name for verifier in getattr(self, list_name)]
            if len(set(names)) < len(names):
                raise ValueError(f"Expected each verifier once in `{list_name}`, but got {names}.")
        if both := {one.name for one in self.judges} & {one.name for one in self.final_judges}:
            raise ValueError(f"Expected a verifier in `judges` or in `final_judges`, but got {sorted(both)} in both.")

    @property
    def for_all(self) -> list[Verifier]:
        """Selectors and judges, each once: they score every candidate."""
        return list({one.name: one for one in [*self.selectors, *self.judges]}.values())

    @property
    def everyone(self) -> list[Verifier]:
        return list({one.name: one for one in [*self.for_all, *self.final_judges]}.values())

    @property
    def columns(self) -> list[str]:
        """Names in the candidates' scores: every verifier's, and the disagreement of those that are made of others."""
        names = [[one.name, disagreement_name(one.name)][: 1 + is_comparative(one)] for one in self.everyone]
        return [name for own in names for name in own]

    def roles(self, name: str) -> list[str]:
        lists = {"selector": self.selectors, "judge": self.judges, "final judge": self.final_judges}
        return [role for role, members in lists.items() if name in {one.name for one in members}]


@dataclass
class Sweep:
    """The sweep of one model in one setting, over as many prompts as one likes.

    `run` may be killed at any time: what was stored is neither sampled nor scored again. Scores of another version of
    a verifier, of another decoder or of another reference recording are not reused; the codes are. `engine` made the
    sampler, where that is not the model's own: its candidates are stored apart.
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
        self._decoder = decoder_fingerprint(self.codec)

    def run(
        self, prompts: Sequence[Prompt], sampler: Sampler, prompts_per_group: int = 8, progress: Progress = no_progress
    ) -> None:
        """Sample and score every prompt, `prompts_per_group` at a time, until the store holds it all.

        Says first what it may cost: `most_flops` is the search's own bound for a prompt, on average over them; of
        several calls the largest.
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
        """What the search of a prompt costs if its candidates have so many codes; the default is the most it can."""
        estimate = self.algorithm.estimate(num_codes)
        num_voice_codes = len(prompt.voice.codes) if prompt.voice else 0
        sizes = (sampler.num_prompt_tokens(prompt), num_voice_codes)
        return estimated_cost(estimate, sampler, self.codec, self.panel.selectors, *sizes)

    def record(self, prompt: Prompt) -> CandidateRecord:
        """A finished prompt from the store. Scores that a verifier was asked for but could not give are NaN."""
        record = self._load(prompt)
        if record is None:
            raise RuntimeError(
                f"Expected the candidates of prompt {prompt.key!r} in {self.store.folder}, but found none. "
                "Ranks must share the run folder."
            )
        for candidate in record.trace.candidates:
            for verifier in self.panel.for_all:
                self._nan_if_failed(candidate, verifier.name)
        for candidate in self._first_and_chosen(record):
            for verifier in self.panel.final_judges:
                self._nan_if_failed(candidate, verifier.name)
        return record

    def _nan_if_failed(self, candidate: Candidate, verifier_name: str) -> None:
        """The store holds what could not be judged, and leaves out what failed, on whichever rank."""
        if verifier_name not in candidate.scores:
            candidate.scores[verifier_name] = math.nan
            self.failures.add((candidate.prompt_key, candidate.index, verifier_name))

    def _identity(self, prompt: Prompt) -> dict[str, Any]:
        identities = self._score_identities(prompt)
        steering = {name: identities[name] for name in self.algorithm.verifier_names}
        drawn_by = (self.sampling, self.algorithm, self.seed, steering, self.engine)
        return candidate_identity(self.model_hash, self.prompt_format, self.codec, prompt, *drawn_by)

    def _score_identities(self, prompt: Prompt) -> dict[str, str]:
        return {one.name: score_identity(one, prompt, self._decoder) for one in self.panel.everyone}

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
        """Every selector and judge on every candidate that it has not scored; keys of the prompts that changed."""
        return self._ask(records, self.panel.for_all, lambda record: record.trace.candidates, progress)

    def _ask_about_chosen(self, records: Sequence[CandidateRecord], progress: Progress) -> set[str]:
        """Final judges, and hypotheses of all that have them, on the first candidate and the chosen ones."""
        changed = self._ask(records, self.panel.final_judges, self._first_and_chosen, progress)
        writers = [verifier for verifier in self.panel.everyone if hasattr(verifier, "hypotheses")]
        for record in records:
            for verifier in writers:
                silent = [
                    one
                    for one in self._first_and_chosen(record)
                    if (one.index, verifier.name) not in record.hypotheses and one.num_codes
                ]
                if silent:
                    progress(f"{verifier.name} hypotheses", 0)
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
        unasked = {verifier.name: [] for verifier in verifiers}
        for verifier in verifiers:
            for record in records:
                wanted = candidates_of(record)
                own = [one for one in wanted if verifier.name not in one.scores]
                if own:  # scores that compare hold for all or for none
                    unasked[verifier.name].append((record.trace.prompt, wanted if is_comparative(verifier) else own))
        unheard = {id(one): one for tasks in unasked.values() for _, own in tasks for one in own}
        if unheard:
            progress("decoding", 0)
            decode_candidates(list(unheard.values()), self.codec, self.decode_batch_size)
        for verifier in verifiers:
            if tasks := unasked[verifier.name]:
                progress(verifier.name, 0)
                self._score(verifier, [prompt for prompt, _ in tasks], [own for _, own in tasks])
        return {prompt.key for tasks in unasked.values() for prompt, _ in tasks}

    def _score(self, verifier: Verifier, prompts: list[Prompt], groups: list[list[Candidate]]) -> None:
        asked = zip(prompts, groups, strict=True)
        self.failures -= {(prompt.key, one.index, verifier.name) for prompt, group in asked for one in group}
        self.failures |= score_with_cost(prompts, groups, verifier, self.codec)

    def _first_and_chosen(self, record: CandidateRecord) -> list[Candidate]:
        candidates = record.trace.candidates
        places = {0} | {chosen_index(candidates, selector.name) for selector in self.panel.selectors}
        return [candidates[place] for place in sorted(places)]

    def _write_hypotheses(self, record: CandidateRecord, verifier: Any, candidates: list[Candidate]) -> None:
        decode_candidates(candidates, self.codec, self.decode_batch_size)
        try:
            texts = verifier.hypotheses(record.trace.prompt, candidates)
        except Exception as error:  # noqa: BLE001 - the texts illustrate the report; the sweep goes on without them
            logger.warning("%s gave no hypotheses for %s: %r", verifier.name, record.trace.prompt.key, error)
            return
        for candidate, text in zip(candidates, texts, strict=True):
            record.hypotheses[candidate.index, verifier.name] = text


def _unknown_last(flops: float) -> float:
    """For `max`, which would drop a NaN: what is not known may be any number."""
    return math.inf if math.isnan(flops) else flops


def silent_trace(trace: Trace, verifier_names: Sequence[str]) -> Trace:
    """The trace without audio, with the scores and costs of these verifiers only."""
    candidates = []
    for one in trace.candidates:
        scores = {name: one.scores[name] for name in verifier_names if name in one.scores}
        costs = {name: cost for name, cost in one.verifier_costs.items() if name in verifier_names}
        candidates.append(replace(one, audio=None, scores=scores, verifier_costs=costs))
    return Trace(trace.prompt, candidates)
